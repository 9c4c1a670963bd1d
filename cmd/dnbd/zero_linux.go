package main

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// zeroOut has the kernel make n bytes of a block device zero, which a disk may do without their being sent to it.
func zeroOut(f *os.File, off, n int64) error {
	span := [2]uint64{uint64(off), uint64(n)} // BLKZEROOUT of linux/fs.h: start and length in bytes
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&span))); errno != 0 {
		return errno
	}
	return nil
}
