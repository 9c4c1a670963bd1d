//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// flowBuffer is what a flow's sockets hold: enough to be no bound. What the kernel makes of them by itself may be the bound for long.
const flowBuffer = 4 << 20

// Flow is a TCP connection from one host to another that always has data. It controls congestion by CUBIC, as most do.
type Flow struct {
	conns    [2]net.Conn // of the sender and the receiver
	received atomic.Int64
	both     sync.WaitGroup
}

// StartFlow starts a flow. Close ends it.
func (l *Lab) StartFlow(from, to string) (*Flow, error) {
	f := &Flow{}
	var listener net.Listener
	err := l.Do(to, func() (err error) {
		config := net.ListenConfig{Control: greedy}
		listener, err = config.Listen(context.Background(), "tcp", netip.AddrPortFrom(l.Addr(to), 0).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start a flow from %s to %s: %w", from, to, err)
	}
	defer listener.Close()
	err = l.Do(from, func() (err error) {
		d := net.Dialer{Control: greedy}
		f.conns[0], err = d.DialContext(context.Background(), "tcp", listener.Addr().String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start a flow from %s to %s: %w", from, to, err)
	}
	if f.conns[1], err = listener.Accept(); err != nil {
		f.conns[0].Close()
		return nil, fmt.Errorf("start a flow from %s to %s: %w", from, to, err)
	}
	buf := make([]byte, 64<<10)
	f.both.Go(func() {
		for {
			if _, err := f.conns[0].Write(buf); err != nil {
				return // closed
			}
		}
	})
	f.both.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := f.conns[1].Read(buf)
			f.received.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	return f, nil
}

// greedy makes a socket of a flow what it is to be.
func greedy(_, _ string, raw syscall.RawConn) (failed error) {
	err := raw.Control(func(fd uintptr) {
		failed = errors.Join(
			unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic"),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, flowBuffer),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, flowBuffer))
	})
	return errors.Join(err, failed)
}

// Received is how many bytes of payload have arrived.
func (f *Flow) Received() int64 { return f.received.Load() }

// Close ends the flow.
func (f *Flow) Close() {
	f.conns[0].Close()
	f.conns[1].Close()
	f.both.Wait()
}
