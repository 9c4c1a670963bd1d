package ublk

import (
	"bytes"
	"context"
	"fmt"
	"syscall"

	"github.com/dnbd/dnbd/block"
)

const (
	// sector is the unit in which a block device's size is counted, in bytes.
	sector = 512
	// padding is what the size of an image that is no multiple of a sector is rounded up to: file systems without padding of
	// their own read their last block whole.
	padding = 4096
)

// whole returns a device of whole sectors: dev itself, or dev with zeroes behind it.
func whole(dev block.Device) block.Device {
	if dev.Size()%sector == 0 {
		return dev
	}
	return block.Expose(padded{block.Lower{Device: dev}}, block.Has(dev))
}

// padded is a device with zeroes behind it, which stay zeroes. The kernel asks for nothing beyond these.
type padded struct{ block.Lower }

// Size implements block.Device.
func (p padded) Size() int64 { return (p.Device.Size() + padding - 1) / padding * padding }

// within returns the part of a range that is the device's.
func (p padded) within(off, n int64) (int64, int64) {
	size := p.Device.Size()
	off = min(off, size)
	return off, min(n, size-off)
}

// ReadAt implements block.Device.
func (p padded) ReadAt(ctx context.Context, b []byte, off int64) error {
	off, n := p.within(off, int64(len(b)))
	clear(b[n:])
	return p.Lower.ReadAt(ctx, b[:n], off)
}

// WriteAt implements block.Writer.
func (p padded) WriteAt(ctx context.Context, b []byte, off int64, fua bool) error {
	off, n := p.within(off, int64(len(b)))
	if len(bytes.TrimLeft(b[n:], "\x00")) > 0 {
		return fmt.Errorf("write behind the end of the image: %w", syscall.ENOSPC)
	}
	return p.Lower.WriteAt(ctx, b[:n], off, fua)
}

// Trim implements block.Trimmer.
func (p padded) Trim(ctx context.Context, off, n int64, fua bool) error {
	off, n = p.within(off, n)
	return p.Lower.Trim(ctx, off, n, fua)
}

// WriteZeroes implements block.Zeroer.
func (p padded) WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error {
	off, n = p.within(off, n)
	return p.Lower.WriteZeroes(ctx, off, n, hole, fast, fua)
}
