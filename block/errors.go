package block

import (
	"errors"
	"syscall"
)

// The kinds of error that a caller decides on. They are wrapped by errors that say what failed on what; test with
// errors.Is.
var (
	// ErrRange: the request leaves the device. The request is wrong, the device is well.
	ErrRange error = &kind{"beyond the end of the device", syscall.EINVAL}
	// ErrClosed: the device was closed.
	ErrClosed error = &kind{"device closed", syscall.EIO}
	// ErrTimeout: the bytes did not come within the limit that the user set. Trying again may succeed.
	ErrTimeout error = &kind{"timed out", syscall.EIO}
	// ErrCorrupt: the bytes that came are not the image's and no better ones are to be had.
	ErrCorrupt error = &kind{"bytes do not match their hash", syscall.EIO}
)

// kind is an error with the errno that kernels and NBD clients are given for it.
type kind struct {
	text  string
	errno syscall.Errno
}

func (k *kind) Error() string        { return k.text }
func (k *kind) Errno() syscall.Errno { return k.errno }

// Errno is the one place where an error becomes a number for a kernel or an NBD client: the errno of the first error in
// err's chain that has one, ENOTSUP for errors.ErrUnsupported, or EIO. A nil err is 0.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var with interface{ Errno() syscall.Errno }
	if errors.As(err, &with) {
		return with.Errno()
	}
	var errno syscall.Errno
	if errors.As(err, &errno) && errno != 0 {
		return errno
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return syscall.ENOTSUP
	}
	return syscall.EIO
}
