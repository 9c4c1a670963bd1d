package nbd

import (
	"context"
	"errors"
	"syscall"
)

// The error numbers that the protocol allows in replies, "Error values". They are Linux's, on whatever system the server
// runs.
const (
	errPerm     = 1
	errIO       = 5
	errNoMem    = 12
	errInvalid  = 22
	errNoSpace  = 28
	errOverflow = 75
	errNotSup   = 95
	errShutdown = 108
)

// errnoOf is the one place where a device's error becomes a number for the client. What was cut short because the
// server or the connection ends is answered ESHUTDOWN.
func errnoOf(err error) uint32 {
	var with interface{ Errno() syscall.Errno }
	var number syscall.Errno
	switch {
	case errors.As(err, &with):
		number = with.Errno()
	case errors.As(err, &number):
	case errors.Is(err, context.Canceled):
		return errShutdown
	}
	if errors.Is(err, errors.ErrUnsupported) || number.Is(errors.ErrUnsupported) {
		return errNotSup
	}
	switch number {
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return errPerm
	case syscall.ENOMEM:
		return errNoMem
	case syscall.EINVAL:
		return errInvalid
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return errNoSpace
	default:
		return errIO
	}
}
