package nbd

import (
	"context"
	"fmt"
	"os"
)

// Device is what an export is made of: an array of bytes of fixed size, which may be far away. What else it can do it says
// by the interfaces below; clients are offered that and no more.
//
// All methods may be called from many goroutines at once, and should return soon after ctx ends. The server only calls
// them for ranges of at least one byte within the device. No slice that they are given may be used after they return.
//
// The client is told the errno of an error: that of a method Errno() syscall.Errno or a syscall.Errno, whichever is found
// in its chain, as far as NBD has a number for it, otherwise EIO. Where replies are structured it sees the text, too.
type Device interface {
	// ReadAt fills p with the bytes at off. When it returns an error the contents of p are never sent.
	ReadAt(ctx context.Context, p []byte, off int64) error

	// Size is the device's length in bytes. It does not change.
	Size() int64
}

// Writer is a device that can be written to.
type Writer interface {
	// WriteAt makes p the bytes at off. With fua they are on stable storage when it returns nil. After an error, or when
	// ctx ended, any part of the range may have changed.
	WriteAt(ctx context.Context, p []byte, off int64, fua bool) error
}

// Flusher is a device whose writes may stay in volatile memory for a while. A Writer that is no Flusher is offered to one
// connection at a time, as far as clients heed that.
type Flusher interface {
	// Flush returns nil when everything that was answered before it was called, to whichever connection, is on stable
	// storage.
	Flush(ctx context.Context) error
}

// Trimmer is a device that can give up bytes.
type Trimmer interface {
	// Trim says that the n bytes at off are not needed any more. They read as anything afterwards. With fua the change is on
	// stable storage when it returns nil.
	Trim(ctx context.Context, off, n int64, fua bool) error
}

// Zeroer is a device that can be zeroed without sending it zeroes.
type Zeroer interface {
	// WriteZeroes makes the n bytes at off read as zero. With hole, their space may be given back. With fast, it fails at
	// once with an error that is errors.ErrUnsupported, having changed nothing, rather than be as slow as writing; without,
	// it never fails for that reason. With fua the change is on stable storage when it returns nil.
	WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error
}

// Prefetcher is a device that gains from knowing what will be read.
type Prefetcher interface {
	// Prefetch says that the n bytes at off will be read soon. It may return before they are there.
	Prefetch(ctx context.Context, off, n int64) error
}

// Mapper is a device that knows what of it is allocated.
type Mapper interface {
	// Extents calls yield for the extents of the n bytes at off, in order and without gaps, until that returns false. Each
	// has at least one byte; the last may reach beyond the range. hole: nothing is allocated for it; zero: it reads as zero.
	Extents(ctx context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error
}

// Backed is a device whose bytes lie in a file, each at its own offset. On Linux, large reads of it go to local clients by
// the kernel's splice, and what the kernel has in memory goes to all clients, without ReadAt.
type Backed interface {
	// Backing returns the file. It is only read, at offsets that each call names, and stays the device's.
	Backing() *os.File
}

// Context is a metadata context of an export: a number for each extent of it, which clients can ask for by the context's
// name ("Metadata querying").
type Context struct {
	// Name is a namespace, a colon and a leaf-name.
	Name string
	// Wide says that a status may need more than 32 bits. Such a context is offered to the clients that can hear of it,
	// those with extended headers.
	Wide bool
	// Status calls yield for the extents of the n bytes at off, in order and without gaps, until that returns false. Each has
	// at least one byte; the last may reach beyond the range.
	Status func(ctx context.Context, off, n int64, yield func(n int64, status uint64) bool) error
}

// capabilities are what an export's device can do, nil where it cannot or may not.
type capabilities struct {
	writer     Writer
	flusher    Flusher
	trimmer    Trimmer
	zeroer     Zeroer
	prefetcher Prefetcher
}

// capabilities returns what clients of x may do.
func (x *Export) capabilities() (c capabilities) {
	c.prefetcher, _ = x.Device.(Prefetcher)
	if x.ReadOnly {
		return c
	}
	if c.writer, _ = x.Device.(Writer); c.writer != nil {
		c.flusher, _ = x.Device.(Flusher)
		c.trimmer, _ = x.Device.(Trimmer)
		c.zeroer, _ = x.Device.(Zeroer)
	}
	return c
}

// flags are the "Transmission flags" of an export whose clients may do c, without those that depend on the connection.
func (c *capabilities) flags() uint16 {
	flags := uint16(exportHasFlags)
	if c.writer == nil {
		flags |= exportReadOnly | exportFlush | exportMultiConn // nothing to flush, so that is simple
	} else {
		flags |= exportFUA
	}
	if c.flusher != nil {
		flags |= exportFlush | exportMultiConn // a flush is the device's, so it is every connection's
	}
	if c.trimmer != nil {
		flags |= exportTrim
	}
	if c.zeroer != nil {
		flags |= exportWriteZeroes | exportFastZero
	}
	if c.prefetcher != nil {
		flags |= exportCache
	}
	return flags
}

// allocation is the context base:allocation of a device. Where the device does not know, all of it is data.
func allocation(d Device) Context {
	mapper, ok := d.(Mapper)
	if !ok {
		return Context{Name: ContextAllocation, Status: func(_ context.Context, off, _ int64, yield func(int64, uint64) bool) error {
			yield(d.Size()-off, 0)
			return nil
		}}
	}
	return Context{Name: ContextAllocation, Status: func(ctx context.Context, off, n int64, yield func(int64, uint64) bool) error {
		err := mapper.Extents(ctx, off, n, func(n int64, hole, zero bool) bool {
			var status uint64
			if hole {
				status |= stateHole
			}
			if zero {
				status |= stateZero
			}
			return yield(n, status)
		})
		if err != nil {
			return fmt.Errorf("map: %w", err)
		}
		return nil
	}}
}
