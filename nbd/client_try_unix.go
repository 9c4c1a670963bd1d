//go:build unix

package nbd

import (
	"net"
	"syscall"
)

// tryWriter returns a function that writes as much to conn as it takes without waiting, or nil where that cannot be done, as
// with TLS. Nobody else may write meanwhile. It does not tell of errors: they come again with what is left.
func tryWriter(conn net.Conn) func([]byte) int {
	system, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := system.SyscallConn()
	if err != nil {
		return nil
	}
	return func(b []byte) (n int) {
		err := raw.Write(func(fd uintptr) bool {
			n, _ = syscall.Write(int(fd), b)
			return true // and do not wait
		})
		if err != nil {
			return 0
		}
		return max(n, 0)
	}
}
