package ublk

import "context"

// Device is what a disk is made of: an array of bytes of fixed size, which may be far away. What else it can do it says by
// the interfaces below; the kernel is offered that and no more.
//
// All methods may be called from many goroutines at once, and should return soon after ctx ends, which it does when the disk
// is closed. They are only called for ranges of at least one byte within the device. No slice that they are given may be used
// after they return.
//
// Whoever uses the disk gets the errno of an error: that of a method Errno() syscall.Errno or a syscall.Errno, whichever is
// found in its chain, as far as Linux' block layer has a status for it, otherwise EIO.
type Device interface {
	// ReadAt fills p with the bytes at off. When it returns an error the contents of p are not used.
	ReadAt(ctx context.Context, p []byte, off int64) error

	// Size is the device's length in bytes. It does not change.
	Size() int64
}

// Writer is a device that can be written to.
type Writer interface {
	// WriteAt makes p the bytes at off, and does not change p. With fua they are on stable storage when it returns nil. After
	// an error any part of the range may have changed.
	WriteAt(ctx context.Context, p []byte, off int64, fua bool) error
}

// Flusher is a device whose writes may stay in volatile memory for a while. A Writer that is no Flusher is taken to have them
// on stable storage when it returns.
type Flusher interface {
	// Flush returns nil when everything that was answered before it was called is on stable storage.
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
	// WriteZeroes makes the n bytes at off read as zero. With hole, their space may be given back. fast is always false: it
	// must not fail for being slow. With fua the change is on stable storage when it returns nil.
	WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error
}

// Prompter is a device that knows of writes for which it waits for nothing but this machine: memory, or the cache of a file. The
// thread that fetches requests carries them out itself, which saves handing them to another one, and waking it. What else comes by
// its queue waits meanwhile.
type Prompter interface {
	// Prompt says whether a write of n bytes at off is one of those. It returns at once.
	Prompt(off, n int64) bool
}

// capabilities are what a disk's device can do, nil where it cannot or may not.
type capabilities struct {
	writer   Writer
	flusher  Flusher
	trimmer  Trimmer
	zeroer   Zeroer
	prompter Prompter
}

// capabilities returns what the users of a disk may do.
func (c *Config) capabilities() (can capabilities) {
	if c.ReadOnly {
		return can
	}
	if can.writer, _ = c.Device.(Writer); can.writer != nil {
		can.flusher, _ = c.Device.(Flusher)
		can.trimmer, _ = c.Device.(Trimmer)
		can.zeroer, _ = c.Device.(Zeroer)
		can.prompter, _ = c.Device.(Prompter)
	}
	return can
}
