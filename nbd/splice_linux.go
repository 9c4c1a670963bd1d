package nbd

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Design
//
// A large read of a file goes to a local client as the pages in which the kernel has it: from the file into a pipe, then
// from there into the socket, and nothing is copied before the client does so. Only when all of it is in the pipe is the
// reply begun, so that a read that fails can still say so. What cannot be done in this way is read into memory as ever.
//
// TCP is sent copies: on the way to a client on the same machine it is slower with pages than with copies.

const (
	// spliceMin is the smallest read for which it pays.
	spliceMin = 64 << 10
	// pipeSize is what a pipe holds: the most that the system lets users have by default.
	pipeSize = 1 << 20
	// maxPipes is how many pipes a connection may have, of two descriptors each. Replies beyond that are copies.
	maxPipes = 4
)

// splicer moves data from an export's file to a local client.
type splicer struct {
	file   syscall.RawConn
	socket syscall.RawConn
	waits  bool // the socket, in a call

	mu   sync.Mutex
	made int     // pipes that there are
	idle []*pipe // the empty ones that nobody uses
}

// pipe holds the data of a reply.
type pipe struct {
	r, w int // descriptors
	n    int // bytes in it
}

// newSplicer returns nil where data has to be copied.
func newSplicer(d Device, conn net.Conn) *splicer {
	local, _ := conn.(syscall.Conn)
	if local == nil || conn.LocalAddr().Network() != "unix" {
		return nil
	}
	file := backing(d)
	if file == nil {
		return nil
	}
	socket, err := local.SyscallConn()
	if err != nil {
		return nil
	}
	_, waits := conn.(*threadConn)
	return &splicer{file: file, socket: socket, waits: waits}
}

// backing returns the file that d's bytes lie in, or nil when they do not.
func backing(d Device) syscall.RawConn {
	backed, _ := d.(Backed)
	if backed == nil {
		return nil
	}
	file, err := backed.Backing().SyscallConn()
	if err != nil {
		return nil
	}
	return file
}

// close closes the pipes. Nobody may use one any more.
func (s *splicer) close() {
	if s == nil {
		return
	}
	for _, p := range s.idle {
		p.close()
	}
}

// takes says whether n bytes are for load.
func (s *splicer) takes(n int64) bool { return s != nil && n >= spliceMin && n <= pipeSize }

// load returns a pipe with the n bytes at off, or nil when they have to be read in another way, whatever the reason.
func (s *splicer) load(off int64, n int) *pipe {
	if !s.takes(int64(n)) {
		return nil
	}
	p := s.take()
	if p == nil {
		return nil
	}
	err := s.file.Control(func(file uintptr) {
		for p.n < n {
			m, err := unix.Splice(int(file), &off, p.w, nil, n-p.n, unix.SPLICE_F_NONBLOCK)
			if err == unix.EINTR {
				continue
			}
			if m <= 0 || err != nil {
				return
			}
			p.n += int(m)
		}
	})
	if err != nil || p.n < n {
		s.drop(p)
		return nil
	}
	return p
}

// take returns an empty pipe, or nil.
func (s *splicer) take() *pipe {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := len(s.idle) - 1; last >= 0 {
		p := s.idle[last]
		s.idle = s.idle[:last]
		return p
	}
	if s.made == maxPipes {
		return nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil
	}
	p := &pipe{r: fds[0], w: fds[1]}
	if _, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		p.close()
		return nil
	}
	s.made++
	return p
}

// give takes p back, which is dropped unless it is empty. A nil p is left alone.
func (s *splicer) give(p *pipe) {
	switch {
	case p == nil:
	case p.n > 0:
		s.drop(p)
	default:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.idle = append(s.idle, p)
	}
}

// drop closes p with what is in it.
func (s *splicer) drop(p *pipe) {
	p.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made--
}

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}

// length is how many bytes are in p, 0 for a nil p.
func (p *pipe) length() int64 {
	if p == nil {
		return 0
	}
	return int64(p.n)
}

// unload sends what is in p. It returns how much was sent; when the deadline for writing was over it may be called again.
func (s *splicer) unload(p *pipe) (sent int64, err error) {
	waitErr := s.socket.Write(func(socket uintptr) bool {
		for p.n > 0 {
			m, e := unix.Splice(p.r, nil, int(socket), nil, p.n, unix.SPLICE_F_NONBLOCK)
			switch {
			case e == unix.EINTR:
			case e == unix.EAGAIN && s.waits:
				err = os.ErrDeadlineExceeded
				return true
			case e == unix.EAGAIN:
				return false
			case e != nil:
				err = os.NewSyscallError("splice", e)
				return true
			case m == 0:
				err = io.ErrUnexpectedEOF
				return true
			default:
				p.n -= int(m)
				sent += int64(m) // an int on 32-bit systems
			}
		}
		return true
	})
	if waitErr != nil {
		err = waitErr
	}
	return sent, err
}
