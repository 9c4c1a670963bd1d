package nbd

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// resident reads of a file what the system has in memory. Who does that cannot get stuck, and sends what it has read from its
// processor's cache.
type resident struct {
	file   syscall.RawConn
	unable bool // the file system does not say what is in memory
}

// newResident returns nil for what is not in a file.
func newResident(d Device) *resident {
	file := backing(d)
	if file == nil {
		return nil
	}
	return &resident{file: file}
}

// takes says whether n bytes are for read.
func (s *resident) takes(n int64) bool { return s != nil && !s.unable && n > 0 && n <= nowMost }

// read fills p with the bytes at off, if they are in memory.
func (s *resident) read(p []byte, off int64) bool {
	_ = s.file.Control(func(fd uintptr) {
		for len(p) > 0 {
			n, errno := readNow(fd, p, off)
			s.unable = errno == unix.EOPNOTSUPP || errno == unix.ENOSYS
			if n == 0 {
				return
			}
			p, off = p[n:], off+int64(n)
		}
	})
	return len(p) == 0
}
