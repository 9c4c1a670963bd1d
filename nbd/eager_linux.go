package nbd

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"
)

const (
	// eagerWait is how long a request is waited for in the kernel: some round trips to a client on the same machine.
	eagerWait = 200 * time.Microsecond
	// maxEager is how many connections a server may have when it does so, since each has a thread while it waits.
	maxEager = 8
)

// eagerReader reads from a socket. A busy client sends its next request within microseconds. To wait for that in the kernel
// is one call, which wakes this thread; Go's poller makes several calls, and wakes other threads that look for work. It
// takes over when nothing came in eagerWait, so that deadlines and closing work, a little late.
type eagerReader struct {
	raw   syscall.RawConn
	count *counters

	// What try was called for, and what came of it.
	p   []byte
	n   int
	err error
}

// eager returns what conn is read through.
func eager(conn net.Conn, count *counters) io.Reader {
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			return &eagerReader{raw: raw, count: count}
		}
	}
	return conn
}

// Read reads as a connection does. p is not empty.
func (r *eagerReader) Read(p []byte) (int, error) {
	r.p = p
	if err := r.raw.Read(r.try); err != nil {
		return 0, err
	}
	if r.n == 0 && r.err == nil {
		return 0, io.EOF
	}
	return r.n, r.err
}

// try reads into r.p, and may wait a little. It returns false when nothing came.
func (r *eagerReader) try(fd uintptr) bool {
	for waited := false; ; {
		n, err := syscall.Read(int(fd), r.p)
		switch {
		case err == syscall.EINTR:
		case err != syscall.EAGAIN:
			r.n, r.err = max(n, 0), nil
			if err != nil {
				r.err = os.NewSyscallError("read", err)
			}
			return true
		case waited || r.count.connections.Load() > maxEager:
			return false
		default:
			waitReadable(fd)
			waited = true
		}
	}
}

// waitReadable waits until there is something to be read from fd, or eagerWait is over.
func waitReadable(fd uintptr) {
	poll := struct {
		fd              int32
		events, revents int16
	}{fd: int32(fd), events: 1} // POLLIN
	limit := syscall.NsecToTimespec(int64(eagerWait))
	_, _, _ = syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
}
