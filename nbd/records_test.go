package nbd

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRecordsAreKeptBackUntilTheyAreFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		r := &records{Conn: near}
		r.hold()
		for _, s := range []string{"one ", "two ", "three "} {
			if n, err := r.Write([]byte(s)); n != len(s) || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		}
		flushed := make(chan error, 1)
		flush := func() {
			near.SetWriteDeadline(time.Now().Add(time.Minute))
			_, err := r.flush()
			flushed <- err
		}
		go flush()
		some := make([]byte, 6)
		io.ReadFull(far, some)
		if err := <-flushed; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the client takes no more, and flush says %v", err)
		}
		if _, err := r.Write([]byte("an alert ")); err != nil { // it must not overtake
			t.Fatal(err)
		}
		go flush()
		rest := make([]byte, 17)
		io.ReadFull(far, rest)
		if err := <-flushed; err != nil {
			t.Fatal(err)
		}
		if got := string(some) + string(rest); got != "one two three an alert " {
			t.Errorf("%q left", got)
		}
		go r.Write([]byte("at once"))
		now := make([]byte, 7)
		io.ReadFull(far, now)
		if string(now) != "at once" {
			t.Errorf("%q left after all was flushed", now)
		}
	})
}

// The server ends although a client reads nothing; serve's cleanup waits for that.
func TestAClientThatReadsNothingOverTLSIsLeft(t *testing.T) {
	a := newAuthority(t)
	d := newDisk(8 << 20)
	s := serve(t, ServerConfig{Exports: []Export{{Device: d}}, TLSMode: TLSOn, TLS: a.server(), Grace: time.Millisecond}, listen(t, "tcp"))
	n := dial(t, s.addr).greet(flagFixedNewstyle).secured(a.client())
	n.agree(styleSimple)
	n.enter("")
	n.put(0, strings.Repeat("x", 1<<20))
	for i := range uint64(64) {
		n.write(requestBytes(0, cmdRead, i, 0, 1<<20))
	}
	if _, err := readAnswer(n.conn, func(uint64) uint32 { return 1 << 20 }); err != nil {
		t.Fatal(err)
	}
}
