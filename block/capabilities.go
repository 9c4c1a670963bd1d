package block

import "context"

// The capabilities that a Device may have beside reading, one method each. A device has a capability exactly if it has the
// method: whoever wants to know asks with a type assertion, or with Has. All of them keep Device's promises: they may be
// called from many goroutines at once, fail with ErrRange for what leaves the device and with ErrClosed once it is closed,
// do nothing for an empty range, and return early, with an error that wraps ctx.Err(), when ctx ends.
type (
	// Writer is a device that can be written to.
	Writer interface {
		// WriteAt puts p at off, and does not change or keep p. Later reads return it. With fua (forced unit access) it is on
		// stable storage when WriteAt returns nil. After an error the range holds the old bytes, the new ones or some of each.
		WriteAt(ctx context.Context, p []byte, off int64, fua bool) error
	}

	// Flusher is a device that may hold back what was written to it, and can be told not to.
	Flusher interface {
		// Flush returns nil when all that was answered before it was called is on stable storage, whoever asked for it.
		Flush(ctx context.Context) error
	}

	// Trimmer is a device that can be told what is not needed any more.
	Trimmer interface {
		// Trim says that nobody needs the n bytes at off any more. What they read as afterwards is anything.
		Trim(ctx context.Context, off, n int64, fua bool) error
	}

	// Zeroer is a device that knows a better way to zeroes than to be sent them.
	Zeroer interface {
		// WriteZeroes makes the n bytes at off read as zero. With hole their space may be given back. With fast it fails at
		// once, with an error that wraps errors.ErrUnsupported, where it would be as slow as writing.
		WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error
	}

	// Prefetcher is a device that makes use of knowing what will be read.
	Prefetcher interface {
		// Prefetch says that the n bytes at off will be read soon. It may wait until they are near; a read need not wait for
		// it.
		Prefetch(ctx context.Context, off, n int64) error
	}

	// Mapper is a device that knows where it holds nothing.
	Mapper interface {
		// Extents calls yield for each run of like bytes in [off, off+n), in order and without gaps, until yield returns
		// false. hole: no space is allocated; zero: they read as zero. The last run may reach beyond off+n, not beyond the
		// device. Neighbouring runs may be alike.
		Extents(ctx context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error
	}

	// Full is a device with a method for every capability.
	Full interface {
		Device
		Writer
		Flusher
		Trimmer
		Zeroer
		Prefetcher
		Mapper
	}
)

// Caps is a set of capabilities.
type Caps uint8

// The capabilities, by the method that each stands for.
const (
	CanWrite    Caps = 1 << iota // WriteAt
	CanFlush                     // Flush
	CanTrim                      // Trim
	CanZero                      // WriteZeroes
	CanPrefetch                  // Prefetch
	CanMap                       // Extents
)

// Has returns the capabilities of d.
func Has(d Device) Caps {
	var c Caps
	add := func(has bool, can Caps) {
		if has {
			c |= can
		}
	}
	_, ok := d.(Writer)
	add(ok, CanWrite)
	_, ok = d.(Flusher)
	add(ok, CanFlush)
	_, ok = d.(Trimmer)
	add(ok, CanTrim)
	_, ok = d.(Zeroer)
	add(ok, CanZero)
	_, ok = d.(Prefetcher)
	add(ok, CanPrefetch)
	_, ok = d.(Mapper)
	add(ok, CanMap)
	return c
}
