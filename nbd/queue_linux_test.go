package nbd

import (
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheQueueWithinTheMachineFitsTheReplies(t *testing.T) {
	for _, threaded := range []bool{false, true} {
		conn := accepted(t, "tcp", "127.0.0.1:0")
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

func TestOverTLSOnlyUnixSocketsHaveALongQueue(t *testing.T) {
	local := accepted(t, "unix", filepath.Join(t.TempDir(), "socket"))
	before := queueSize(t, local)
	newSendQueue(&tlsConn{records: &records{Conn: local}})
	if got := queueSize(t, local); got <= before {
		t.Errorf("the buffer of a unix socket has %d bytes, and had %d", got, before)
	}
	tcp := accepted(t, "tcp", "127.0.0.1:0")
	before = queueSize(t, tcp)
	newSendQueue(&tlsConn{records: &records{Conn: tcp}})
	if got := queueSize(t, tcp); got != before {
		t.Errorf("the buffer of a TCP connection has %d bytes, and had %d", got, before)
	}
}

// accepted returns a server's end of a connection.
func accepted(t *testing.T, network, address string) net.Conn {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
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
