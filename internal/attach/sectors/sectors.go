// Package sectors makes devices of whole sectors, as kernels want them, of images of any size.
package sectors

import (
	"bytes"
	"context"
	"fmt"
	"syscall"

	"github.com/dnbd/dnbd/block"
)

const (
	// Sector is the unit in which a block device's size is counted, in bytes.
	Sector = 512
	// padding is what the size of an image that is not made of sectors is rounded up to, in bytes. Such an image was not made
	// for a disk, and nothing in it is sought at the disk's end; it gets whole pages, because file systems without padding
	// read their last block whole.
	padding = 4096
)

// Round is the size in bytes of the device for an image of size bytes.
func Round(size int64) int64 {
	if size%Sector == 0 {
		return size
	}
	return (size + padding - 1) / padding * padding
}

// Whole returns a device of whole sectors: dev itself, or dev with zeroes behind it, which stay zeroes and take no hints where
// to read and tell no holes. Closing one closes the other.
func Whole(dev block.Device) block.Device {
	if dev.Size()%Sector == 0 {
		return dev
	}
	return block.Expose(padded{block.Lower{Device: dev}}, block.Has(dev)&^(block.CanPrefetch|block.CanMap))
}

// padded is a device with zeroes behind it.
type padded struct{ block.Lower }

// Size implements block.Device.
func (p padded) Size() int64 { return Round(p.Device.Size()) }

// within returns the part of a range that is the device's.
func (p padded) within(off, n int64) (int64, int64, error) {
	if err := block.CheckRange(p.Size(), off, n); err != nil {
		return 0, 0, err
	}
	size := p.Device.Size()
	off = min(off, size)
	return off, min(n, size-off), nil
}

// ReadAt implements block.Device.
func (p padded) ReadAt(ctx context.Context, b []byte, off int64) error {
	off, n, err := p.within(off, int64(len(b)))
	if err != nil {
		return err
	}
	clear(b[n:])
	return p.Lower.ReadAt(ctx, b[:n], off)
}

// WriteAt implements block.Writer.
func (p padded) WriteAt(ctx context.Context, b []byte, off int64, fua bool) error {
	off, n, err := p.within(off, int64(len(b)))
	if err != nil {
		return err
	}
	if len(bytes.TrimLeft(b[n:], "\x00")) > 0 {
		return fmt.Errorf("write behind the end of the image: %w", syscall.ENOSPC)
	}
	return p.Lower.WriteAt(ctx, b[:n], off, fua)
}

// Trim implements block.Trimmer.
func (p padded) Trim(ctx context.Context, off, n int64, fua bool) error {
	off, n, err := p.within(off, n)
	if err != nil {
		return err
	}
	return p.Lower.Trim(ctx, off, n, fua)
}

// WriteZeroes implements block.Zeroer.
func (p padded) WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error {
	off, n, err := p.within(off, n)
	if err != nil {
		return err
	}
	return p.Lower.WriteZeroes(ctx, off, n, hole, fast, fua)
}
