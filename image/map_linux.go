package image

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// mapFile maps n bytes at off of r into memory, if r is a file; off must be a multiple of the page size. To read a page that
// the file does not have, or the disk cannot read, is a fault. The caller calls unmapFile with the very slice.
func mapFile(r io.ReaderAt, off int64, n int) ([]byte, error) {
	f, ok := r.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var p []byte
	controlErr := conn.Control(func(fd uintptr) {
		p, err = unix.Mmap(int(fd), off, n, unix.PROT_READ, unix.MAP_SHARED)
	})
	return p, errors.Join(controlErr, err)
}

// populate makes the pages of a mapping present at once, which is cheaper than a fault for every few of them. A kernel
// before 5.14 cannot, and a page that cannot be read stays away: both are left to the faults.
func populate(p []byte) { _ = unix.Madvise(p, unix.MADV_POPULATE_READ) }

func unmapFile(p []byte) error { return unix.Munmap(p) }
