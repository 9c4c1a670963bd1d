//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
	"context"
	"syscall"

	"github.com/dnbd/dnbd/block"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// writable says whether a device can be attached to be written to. One that cannot be flushed could not keep what a file system
// needs to be kept.
func writable(dev block.Device) bool {
	const need = block.CanWrite | block.CanFlush
	return block.Has(dev)&need == need
}

// request returns a context that ends when all requests are to fail, or when the process that waits for this one got a signal.
func (d *disk) request(interrupted <-chan struct{}) (ctx context.Context, over func()) {
	ctx, cancel := context.WithCancel(d.ctx)
	stop := context.AfterFunc(&fuse.Context{Cancel: interrupted}, cancel)
	return ctx, func() { stop(); cancel() }
}

// Write implements fuse.RawFileSystem. Each runs on a goroutine of its own.
func (d *disk) Write(interrupted <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if !d.writable {
		return 0, fuse.EROFS
	}
	ctx, over := d.request(interrupted)
	defer over()
	if err := d.dev.WriteAt(ctx, data, int64(in.Offset), false); err != nil {
		return 0, status(err)
	}
	return uint32(len(data)), fuse.OK
}

// Fsync implements fuse.RawFileSystem. The loop device makes it of flushes and of forced writes.
func (d *disk) Fsync(interrupted <-chan struct{}, _ *fuse.FsyncIn) fuse.Status {
	if !d.writable {
		return fuse.OK
	}
	ctx, over := d.request(interrupted)
	defer over()
	return status(d.dev.Flush(ctx))
}

// Fallocate implements fuse.RawFileSystem: it makes bytes zero. The loop device makes holes of discards, and of zeroes unless
// they are to keep their space.
func (d *disk) Fallocate(interrupted <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	hole := in.Mode == unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE
	if !d.writable || !hole && in.Mode != unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	off, n := d.within(in.Offset, in.Length)
	ctx, over := d.request(interrupted)
	defer over()
	return status(d.dev.WriteZeroes(ctx, off, n, hole, false, false))
}

// within returns the part of a range of the file that is the device's.
func (d *disk) within(off, n uint64) (int64, int64) {
	size := uint64(d.dev.Size())
	off = min(off, size)
	return int64(off), int64(min(n, size-off))
}
