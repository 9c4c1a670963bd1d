// Package block is the shape of everything that has bytes: a file, a cache, a remote image, a layer over any of them.
//
// It imports nothing of this project. Package blocktest holds the conformance suite that every Device runs, and the
// fakes that tests stack under the code they look at.
package block

import (
	"context"
	"fmt"
)

// Device is an array of bytes of fixed size that may be far away.
//
// What else a device can do it says by having the methods of Writer, Flusher, Trimmer, Zeroer, Prefetcher and Mapper.
//
// All methods may be called from many goroutines at once.
type Device interface {
	// ReadAt fills p with the bytes at off, all of it or none that may be used: when the error is not nil, p's contents
	// are undefined. The caller owns p again when ReadAt returns. A read that leaves [0, Size()) fails with ErrRange and
	// reads nothing; an empty read at any offset within the device succeeds. ReadAt returns early, with an error that
	// wraps ctx.Err(), when ctx ends.
	ReadAt(ctx context.Context, p []byte, off int64) error

	// Size is the device's length in bytes. It does not change while the device is open.
	Size() int64

	// Close releases the device. Reads under way fail with ErrClosed or complete; later reads fail with ErrClosed. A second
	// Close does nothing and returns nil.
	Close() error
}

// CheckRange returns an error that wraps ErrRange unless [off, off+n) lies within a device of size bytes.
func CheckRange[N int | int64](size, off int64, n N) error {
	if off < 0 || n < 0 || off > size || int64(n) > size-off {
		return fmt.Errorf("%d bytes at %d of a device of %d: %w", n, off, size, ErrRange)
	}
	return nil
}
