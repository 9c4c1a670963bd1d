package ublk

import (
	"context"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/ublk"
)

const (
	// sector is the unit in which a block device's size is counted, in bytes.
	sector = 512
	// padding is what the size of an image that is no multiple of a sector is rounded up to: file systems without padding of
	// their own read their last block whole.
	padding = 4096
)

// whole returns a device of whole sectors: dev itself, or dev with zeroes behind it.
func whole(dev block.Device) ublk.Device {
	if dev.Size()%sector == 0 {
		return dev
	}
	return padded{dev}
}

// padded is a device with zeroes behind it. It can only be read.
type padded struct{ dev block.Device }

// Size implements ublk.Device.
func (p padded) Size() int64 { return (p.dev.Size() + padding - 1) / padding * padding }

// ReadAt implements ublk.Device.
func (p padded) ReadAt(ctx context.Context, b []byte, off int64) error {
	within := min(max(p.dev.Size()-off, 0), int64(len(b)))
	clear(b[within:])
	if within == 0 {
		return nil
	}
	return p.dev.ReadAt(ctx, b[:within], off)
}
