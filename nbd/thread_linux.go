package nbd

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxThreads is how many connections a server may have when one more gets a thread.
const maxThreads = 8

// threadConn is a connection whose reads and writes block a thread in the kernel. A busy client sends its next request within
// microseconds, and to wait for it is one call then. Go's poller takes several, and wakes a second thread for all that
// arrives even while the first one is at work on it: a quarter of what a write of 4 KiB costs.
//
// Deadlines hold from the next call on; but one that is over ends reading at once and for good.
type threadConn struct {
	file          *os.File // counts who is in a call, so that the descriptor outlives them
	raw           syscall.RawConn
	local, remote net.Addr

	vector  []unix.Iovec // the writer's
	writing atomic.Bool
	mu      sync.Mutex
	late    *time.Timer // ends a write that began before its deadline was set
}

// thread returns the connection by which conn is to be talked to from now on. It takes the place of conn, which it closes, if
// the server has few of them. Below TLS it does so as well.
func thread(conn net.Conn, count *counters) net.Conn {
	if c, ok := conn.(*tlsConn); ok {
		c.records.Conn = thread(c.records.Conn, count)
		return c
	}
	c, ok := conn.(syscall.Conn)
	if !ok || count.connections.Load() > maxThreads {
		return conn
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return conn
	}
	fd := -1
	_ = raw.Control(func(old uintptr) { fd, _ = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if fd < 0 {
		return conn
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		_ = unix.Close(fd)
		return conn
	}
	t := &threadConn{file: os.NewFile(uintptr(fd), "socket"), local: conn.LocalAddr(), remote: conn.RemoteAddr()}
	if t.raw, err = t.file.SyscallConn(); err != nil {
		_ = t.file.Close()
		return conn
	}
	_ = conn.Close() // the connection lives on in the other descriptor, out of the poller's sight
	return t
}

// SyscallConn implements syscall.Conn.
func (c *threadConn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// LocalAddr implements net.Conn.
func (c *threadConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *threadConn) RemoteAddr() net.Addr { return c.remote }

// SetWriteBuffer sets the size of the socket's buffer, in bytes, as far as the system allows.
func (c *threadConn) SetWriteBuffer(n int) error {
	return c.control("setsockopt", func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, n) })
}

// Read implements net.Conn.
func (c *threadConn) Read(p []byte) (int, error) {
	n, err := c.file.Read(p)
	if errors.Is(err, unix.EAGAIN) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// ReadFull reads until p, which is not empty, is full or no more comes for now.
func (c *threadConn) ReadFull(p []byte) (n int, err error) {
	if e := c.raw.Read(func(fd uintptr) bool {
		n, err = again(func() (int, error) {
			n, _, err := unix.Recvfrom(int(fd), p, unix.MSG_WAITALL)
			return n, err
		})
		return true
	}); e != nil {
		return 0, e
	}
	if err != nil {
		return 0, callError("recvfrom", err)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Write implements net.Conn.
func (c *threadConn) Write(p []byte) (int, error) {
	n, err := c.writeBuffers(&net.Buffers{p})
	return int(n), err
}

// writeBuffers writes b and takes from it what it has written.
func (c *threadConn) writeBuffers(b *net.Buffers) (n int64, err error) {
	c.writing.Store(true)
	defer c.writing.Store(false)
	for len(*b) > 0 {
		var m int
		if e := c.raw.Write(func(fd uintptr) bool {
			if m = sendNow(fd, *b, &c.vector); m > 0 {
				return true
			}
			m, err = again(func() (int, error) { return unix.Writev(int(fd), (*b)[:min(len(*b), maxVector)]) })
			return true
		}); e != nil {
			return n, e
		}
		if err != nil {
			return n, callError("writev", err)
		}
		n += int64(m)
		consume(b, m)
	}
	return n, nil
}

// drained says whether the client has taken nearly all that was written to it, so that it takes a little more at once.
func (c *threadConn) drained() bool {
	left := maxAside
	_ = c.raw.Control(func(fd uintptr) {
		if n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			left = n
		}
	})
	return left < maxAside
}

// maxVector is the most buffers of one writev: the kernel's UIO_MAXIOV.
const maxVector = 1024

// again calls f until no signal interrupts it.
func again(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); err != unix.EINTR {
			return n, err
		}
	}
}

// callError names the system call that failed. What timed out is a deadline that was exceeded, as with other connections.
func callError(call string, err error) error {
	if err == unix.EAGAIN {
		return os.ErrDeadlineExceeded
	}
	return os.NewSyscallError(call, err)
}

// SetDeadline implements net.Conn.
func (c *threadConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *threadConn) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		return c.shutdown(unix.SHUT_RD)
	}
	return c.setTimeout(unix.SO_RCVTIMEO, t)
}

// SetWriteDeadline implements net.Conn.
func (c *threadConn) SetWriteDeadline(t time.Time) error {
	if err := c.setTimeout(unix.SO_SNDTIMEO, t); err != nil || t.IsZero() || !c.writing.Load() {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.late == nil {
		c.late = time.AfterFunc(time.Until(t), func() { _ = c.shutdown(unix.SHUT_RDWR) })
	}
	return nil
}

// setTimeout sets a timeout of the socket so that it ends at t.
func (c *threadConn) setTimeout(option int, t time.Time) error {
	var limit unix.Timeval // zero: none
	if !t.IsZero() {
		limit = unix.NsecToTimeval(max(int64(time.Until(t)), int64(time.Millisecond)))
	}
	return c.control("setsockopt", func(fd int) error { return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit) })
}

// shutdown ends the calls under way.
func (c *threadConn) shutdown(how int) error {
	return c.control("shutdown", func(fd int) error { return unix.Shutdown(fd, how) })
}

// control makes a system call that does not wait.
func (c *threadConn) control(call string, f func(fd int) error) (err error) {
	if e := c.raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return os.NewSyscallError(call, err)
}

// Close implements net.Conn.
func (c *threadConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.late != nil {
		c.late.Stop()
	}
	_ = c.shutdown(unix.SHUT_RDWR)
	return c.file.Close()
}
