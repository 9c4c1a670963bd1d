//go:build !linux

package socket

import "net"

// peerName names the process at the other end of conn, as far as this system tells.
func peerName(*net.UnixConn) string { return "another process" }
