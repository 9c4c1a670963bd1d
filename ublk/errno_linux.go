//go:build linux && (amd64 || arm64 || loong64 || riscv64)

package ublk

import (
	"errors"
	"syscall"
)

// result is the one place where an error becomes a number for the kernel: a negative errno, or 0.
func result(err error) int32 {
	if err == nil {
		return 0
	}
	var with interface{ Errno() syscall.Errno }
	var number syscall.Errno
	switch {
	case errors.As(err, &with):
		number = with.Errno()
	case errors.As(err, &number):
	case errors.Is(err, errors.ErrUnsupported):
		number = syscall.EOPNOTSUPP
	}
	switch number {
	// Those that the block layer has a status for, blk_errors in block/blk-core.c, and that a device may have a reason for.
	// Of the others some have a meaning between drivers only, such as "try again".
	case syscall.EOPNOTSUPP, syscall.ETIMEDOUT, syscall.ENOSPC, syscall.ENOLINK, syscall.EREMOTEIO, syscall.ENODATA,
		syscall.EILSEQ, syscall.ENOMEM:
		return -int32(number)
	}
	return -int32(syscall.EIO)
}
