package nbd

import "net"

const (
	// longQueue is the size of a socket's buffer for replies to a unix socket, as far as the system allows. The usual 208 KiB
	// are less than one large reply, so that the server and its client take turns: nbdcopy reads 2.1 GB/s then and 2.9 GB/s
	// with this, since pages are queued (splice_linux.go).
	longQueue = 2 << 20
	// shortQueue is the same for TCP within the machine, where copies are queued, while no reply is longer than shortReply.
	// Linux doubles it, and would let the queue grow to megabytes, which are out of the processors' caches when the client
	// comes to read them: nbdcopy reads 3.0 GB/s over one connection then and 3.4 GB/s with this. Less than half of it has TCP
	// wait for its timers, and nearly a third is lost where replies have 512 KiB.
	shortQueue = 112 << 10
	shortReply = 256 << 10
)

// sendQueue is that of a connection's socket, in which replies wait for the client. Where the client is on another machine, TCP
// finds the size for the path by itself; and over TLS, where to copy is the least of the work, it is left alone.
type sendQueue struct {
	socket interface{ SetWriteBuffer(int) error } // nil where it is left alone
	short  bool
}

// newSendQueue sizes the queue of conn.
func newSendQueue(conn net.Conn) sendQueue {
	socket, ok := conn.(interface{ SetWriteBuffer(int) error })
	switch {
	case !ok:
	case conn.LocalAddr().Network() == "unix":
		_ = socket.SetWriteBuffer(longQueue) // slower without, no more
	case withinMachine(conn.LocalAddr(), conn.RemoteAddr()):
		_ = socket.SetWriteBuffer(shortQueue)
		return sendQueue{socket, true}
	}
	return sendQueue{}
}

// fit makes the queue longer if a reply of n bytes wants that.
func (q *sendQueue) fit(n uint64) {
	if q.short && n > shortReply {
		q.short = false
		_ = q.socket.SetWriteBuffer(longQueue)
	}
}

// withinMachine says whether a TCP connection does not leave the machine, as far as its ends' addresses tell.
func withinMachine(a, b net.Addr) bool {
	from, ok1 := a.(*net.TCPAddr)
	to, ok2 := b.(*net.TCPAddr)
	return ok1 && ok2 && (from.IP.Equal(to.IP) || from.IP.IsLoopback())
}
