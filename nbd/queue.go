package nbd

import "net"

const (
	// longQueue is the size of a local socket's buffer for large replies, as far as the system allows. A unix socket's usual
	// 208 KiB are less than one of them, so that the server and its client take turns: nbdcopy reads 2.1 GB/s then and 2.9 GB/s
	// with this, since pages are queued (splice_linux.go); and over TLS 1.2 GB/s, or 1.4 GB/s.
	longQueue = 2 << 20
	// shortQueue is the same for TCP within the machine, where copies are queued, while no reply is longer than shortReply.
	// Linux doubles it, and would let the queue grow to megabytes, which are out of the processors' caches when the client
	// comes to read them: nbdcopy reads 3.0 GB/s over one connection then and 3.4 GB/s with this. Less than half of it has TCP
	// wait for its timers, and nearly a third is lost where replies have 512 KiB.
	shortQueue = 112 << 10
	shortReply = 256 << 10
)

// sendQueue is that of a connection's socket, in which replies wait for the client. Where the client is on another machine, TCP
// finds the size for the path by itself; and over TLS, where to copy is the least of the work, no queue is short.
type sendQueue struct {
	short interface{ SetWriteBuffer(int) error } // the socket; nil unless the queue is short
}

// newSendQueue sizes the queue of conn.
func newSendQueue(conn net.Conn) (q sendQueue) {
	secure, overTLS := conn.(*tlsConn)
	if overTLS {
		conn = secure.records.Conn
	}
	socket, ok := conn.(interface{ SetWriteBuffer(int) error })
	switch {
	case !ok:
	case conn.LocalAddr().Network() == "unix":
		_ = socket.SetWriteBuffer(longQueue) // slower without, no more
	case !overTLS && withinMachine(conn.LocalAddr(), conn.RemoteAddr()):
		_ = socket.SetWriteBuffer(shortQueue)
		q.short = socket
	}
	return q
}

// fit makes the queue longer if a reply of n bytes wants that.
func (q *sendQueue) fit(n uint64) {
	if q.short != nil && n > shortReply {
		_ = q.short.SetWriteBuffer(longQueue)
		q.short = nil
	}
}

// withinMachine says whether a TCP connection does not leave the machine, as far as its ends' addresses tell.
func withinMachine(a, b net.Addr) bool {
	from, ok1 := a.(*net.TCPAddr)
	to, ok2 := b.(*net.TCPAddr)
	return ok1 && ok2 && (from.IP.Equal(to.IP) || from.IP.IsLoopback())
}
