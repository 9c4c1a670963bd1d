//go:build linux

package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/nbd"
	"golang.org/x/sys/unix"
)

const (
	// pairBuffer is the size of the buffers of a socket pair, in bytes: room for the largest requests that the kernel makes by
	// default, and then some.
	pairBuffer = 4 << 20
	// grace is how long requests under way may take once the kernel has said goodbye. It waits for them before it does.
	grace = time.Second
)

// link is one connection of the kernel's.
type link struct {
	fd            int    // what the kernel is given
	peer          string // the other end's address
	since         time.Time
	local, remote netip.AddrPort // of a TCP connection
	ended         chan struct{}  // closed when the connection has ended, and nothing is done for it any more

	shut  func() // ends the connection; it may be called again
	taken func() // called when the kernel has it
	close func() // gives back what the link has, after it ended
	rtt   func() time.Duration
	alive func() bool // neither end has shut it down; not after close
}

// opener makes connections to one device.
type opener interface {
	// open makes a connection, which is ready for the transmission phase.
	open(ctx context.Context) (*link, error)
}

// pairs makes connections to a device of this process.
type pairs struct {
	dev    block.Device
	calls  *calls
	server *nbd.Server
}

func newPairs(dev block.Device, log *slog.Logger) (*pairs, error) {
	server, err := nbd.NewServer(nbd.ServerConfig{Log: log, Grace: grace})
	if err != nil {
		return nil, err
	}
	return &pairs{dev, newCalls(), server}, nil
}

// open implements opener.
func (p *pairs) open(context.Context) (*link, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket pair: %w", err)
	}
	theirs := fds[0]
	for _, fd := range fds {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, pairBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, pairBuffer) // slower without, no more
		}
	}
	f := os.NewFile(uintptr(fds[1]), "nbd")
	conn, err := net.FileConn(f)
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, errors.Join(err, unix.Close(theirs))
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close(), unix.Close(theirs))
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &link{fd: theirs, peer: "this process", since: time.Now(), ended: make(chan struct{})}
	var drop sync.Once
	release := func() { drop.Do(func() { _ = unix.Close(theirs) }) }
	l.taken = release
	l.rtt = func() time.Duration { return 0 }
	l.alive = func() bool { return !hungUp(raw) }
	l.shut = func() { _ = conn.Close() }
	l.close = func() { cancel(); release() }
	go func() {
		defer close(l.ended)
		// How it ends is the kernel's wish, or told by it.
		_ = p.server.ServeTransmission(ctx, conn, nbd.Export{Device: p.calls.guard(p.dev, raw)})
	}()
	return l, nil
}

// remote makes connections to an export of a server.
type remote struct {
	uri    string
	config nbd.DialConfig
	info   nbd.ExportInfo // of the first connection
	first  chan *link     // that one, until it is used
}

// open implements opener.
func (r *remote) open(ctx context.Context) (*link, error) {
	select {
	case l := <-r.first:
		return l, nil
	default:
	}
	conn, info, err := nbd.Negotiate(ctx, r.uri, r.config)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if r.info.Size == 0 {
		r.info = info
	} else if err := same(r.info, info); err != nil {
		return nil, err
	}
	return newWire(conn)
}

// dropFirst ends the first connection if it was not used.
func (r *remote) dropFirst() {
	select {
	case l := <-r.first:
		l.end()
	default:
	}
}

// end ends the connection and gives back what it has.
func (l *link) end() {
	l.shut()
	<-l.ended
	l.close()
}

// same returns an error unless a later connection to an export is as good as the first.
func same(first, later nbd.ExportInfo) error {
	switch {
	case first.Size != later.Size:
		return fmt.Errorf("the export is not what it was: it had %d bytes and has %d", first.Size, later.Size)
	case first.Flags()&^later.Flags() != 0 || first.ReadOnly != later.ReadOnly:
		return fmt.Errorf("the export is not what it was: its flags were 0x%x and are 0x%x", first.Flags(), later.Flags())
	case later.MinBlock > first.MinBlock || later.MaxPayload < first.MaxPayload:
		return errors.New("the export is not what it was: its block sizes changed")
	}
	return nil
}

// newWire makes a link of a descriptor of its own for conn, which is the caller's.
func newWire(conn net.Conn) (*link, error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a connection of type %T cannot be handed to the kernel", conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	ctlErr := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(ctlErr, err); err != nil {
		return nil, err
	}
	l := &link{fd: fd, peer: conn.RemoteAddr().String(), since: time.Now(), ended: make(chan struct{})}
	if l.peer == "" || l.peer == "@" {
		l.peer = conn.RemoteAddr().Network() + " socket"
	}
	if tcp, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		l.local, l.remote = tcp.AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	}
	l.taken = func() {}
	l.rtt = func() time.Duration { return roundTrip(fd) }
	l.alive = func() bool { return !ended(fd, 0) }
	l.shut = func() { _ = unix.Shutdown(fd, unix.SHUT_RDWR) } // fails when there is nothing to end any more
	l.close = func() { _ = unix.Close(fd) }
	go func() {
		defer close(l.ended)
		ended(fd, -1) // the kernel reads what comes; this is not woken for that
	}()
	return l, nil
}

// ended waits until either end of a connection has shut it down, for so many milliseconds, without limit when that is negative, and
// says whether it did.
func ended(fd, limit int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		n, err := unix.Poll(p, limit)
		if err == nil || !errors.Is(err, unix.EINTR) {
			return err != nil || n > 0
		}
	}
}

// roundTrip is the smoothed round-trip time of a TCP connection, 0 of any other.
func roundTrip(fd int) time.Duration {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return time.Duration(info.Rtt) * time.Microsecond
}
