package socket

import (
	"net"

	"github.com/dnbd/dnbd/internal/attach"
	"golang.org/x/sys/unix"
)

// peerName names the process at the other end of conn, which for a socket that we connected to is the one that listens.
func peerName(conn *net.UnixConn) string {
	name := "another process"
	raw, err := conn.SyscallConn()
	if err != nil {
		return name
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && cred.Pid > 0 {
			name = attach.Process(int(cred.Pid))
		}
	})
	return name
}
