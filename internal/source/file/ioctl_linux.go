package file

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlRange makes one of the ioctls of <linux/fs.h> that take a range of a block device as two 64-bit numbers.
func ioctlRange(fd int, request uintptr, off, n int64) error {
	span := [2]uint64{uint64(off), uint64(n)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&span))); errno != 0 {
		return errno
	}
	return nil
}
