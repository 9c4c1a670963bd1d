package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// silence is how long a server may leave what was sent unacknowledged, or not answer probes, before its connection counts
// as broken. Without it one whose machine vanished would be noticed after a quarter of an hour.
const silence = 30 * time.Second

// socketDialer opens TCP and unix sockets.
func socketDialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silence / 3, Interval: silence / 6, Count: 4},
		Control: func(network, _ string, raw syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			return raw.Control(func(fd uintptr) {
				// Later without, no more.
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
			})
		},
	}
}

// vsockConn is a connected vsock socket. Package net has no type for it.
type vsockConn struct{ *os.File }

// vsockAddr is one end of a vsock connection.
type vsockAddr string

func (vsockAddr) Network() string  { return "vsock" }
func (a vsockAddr) String() string { return string(a) }

func (c vsockConn) LocalAddr() net.Addr  { return vsockAddr("vsock") }
func (c vsockConn) RemoteAddr() net.Addr { return vsockAddr(c.Name()) }

// dialVsock connects to a port of a virtual machine, or of its hypervisor, vsock(7). host was checked by ParseURI.
func dialVsock(ctx context.Context, host string, port uint32) (net.Conn, error) {
	name := "vsock " + host + ":" + strconv.FormatUint(uint64(port), 10)
	id, err := strconv.ParseUint(host, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", name, os.NewSyscallError("socket", err))
	}
	err = unix.Connect(fd, &unix.SockaddrVM{CID: uint32(id), Port: port})
	conn := vsockConn{os.NewFile(uintptr(fd), name)} // now, so that its first event is about the connection
	if errors.Is(err, unix.EINPROGRESS) {
		err = conn.connected(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("dial %s: %w", name, os.NewSyscallError("connect", err))
	}
	return conn, nil
}

// connected waits until connecting is over, and returns how it ended.
func (c vsockConn) connected(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetWriteDeadline(time.Now()) })
	defer stop()
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		// It may be over already, and then no event tells.
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := again(func() (int, error) { return unix.Poll(ready, 0) }); err != nil || n == 0 {
			failed = err
			return err != nil
		}
		number, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if failed = err; err == nil && number != 0 {
			failed = syscall.Errno(number)
		}
		return true
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, failed)
}
