package nbd

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheQueueWithinTheMachineFitsTheReplies(t *testing.T) {
	for _, threaded := range []bool{false, true} {
		_, conn := tcpPair(t)
		if threaded {
			conn = thread(conn, new(counters))
			t.Cleanup(func() { conn.Close() })
		}
		q := newSendQueue(conn)
		if got, want := queueSize(t, conn), 2*shortQueue; got != want {
			t.Errorf("%T: the buffer has %d bytes, want %d", conn, got, want)
		}
		q.fit(shortReply)
		if got, want := queueSize(t, conn), 2*shortQueue; got != want {
			t.Errorf("%T: with a reply of %d bytes the buffer has %d, want %d", conn, shortReply, got, want)
		}
		q.fit(shortReply + 1)
		if got := queueSize(t, conn); got <= 2*shortQueue {
			t.Errorf("%T: with a reply of %d bytes the buffer has %d", conn, shortReply+1, got)
		}
	}
}

// tcpPair returns both ends of a connection over loopback.
func tcpPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

// queueSize is the size of conn's buffer, as the system counts it.
func queueSize(t *testing.T, conn net.Conn) (n int) {
	t.Helper()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return n
}
