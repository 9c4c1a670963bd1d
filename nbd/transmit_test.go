package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestRequestsAreAnsweredAsTheProtocolSays(t *testing.T) {
	const size = 5_000_001
	for _, c := range []struct {
		name           string
		flags, command uint16
		offset         uint64
		length         uint64
		errno          uint32 // with simple replies
		structured     uint32 // with structured and extended ones
	}{
		{"a read", 0, cmdRead, 12345, 6789, 0, 0},
		{"the whole export", 0, cmdRead, 0, size, 0, 0},
		{"the last byte", 0, cmdRead, size - 1, 1, 0, 0},
		{"nothing", 0, cmdRead, size, 0, 0, 0},
		{"unfragmented", cmdFlagDF, cmdRead, 100, 200_000, errInvalid, 0},
		{"one byte past the end", 0, cmdRead, size - 1, 2, errInvalid, errInvalid},
		{"at the end", 0, cmdRead, size, 1, errInvalid, errInvalid},
		{"past the end of all numbers", 0, cmdRead, 1<<64 - 1, 2, errInvalid, errInvalid},
		{"nothing past the end", 0, cmdRead, size + 1, 0, errInvalid, errInvalid},
		{"more than fits, past the end", 0, cmdRead, 0, 1<<32 - 1, errInvalid, errInvalid},
		{"a flag of writes", 1, cmdRead, 0, 512, errInvalid, errInvalid},
		{"a write", 0, cmdWrite, 0, 70_000, errPerm, errPerm},
		{"a write past the end", 1, cmdWrite, size, 1, errPerm, errPerm},
		{"a trim", 0, cmdTrim, 0, 512, errPerm, errPerm},
		{"zeroes", 2, cmdWriteZeroes, 0, 512, errPerm, errPerm},
		{"a flush", 0, cmdFlush, 0, 0, 0, 0},
		{"a flush of something", 0, cmdFlush, 1, 0, errInvalid, errInvalid},
		{"a cache request", 0, 5, 0, 512, errInvalid, errInvalid},
		{"a block status", 0, 7, 0, 512, errInvalid, errInvalid},
		{"a resize", 0, 8, 0, 512, errInvalid, errInvalid},
		{"an unknown command", 0xffdf, 0xffff, 1 << 63, 1 << 31, errInvalid, errInvalid},
	} {
		for _, style := range styles {
			t.Run(fmt.Sprintf("%s, style %d", c.name, style), func(t *testing.T) {
				n := device(t, pattern(size), style)
				a := n.request(c.flags, c.command, c.offset, c.length)
				want := c.errno
				if style != styleSimple {
					want = c.structured
				}
				if a.errno != want {
					t.Fatalf("error %d (%s), want %d", a.errno, a.text, want)
				}
				if style != styleSimple && (a.errno != 0) != (a.text != "") {
					t.Errorf("error %d with text %q", a.errno, a.text)
				}
				if c.command == cmdRead && a.errno == 0 {
					if !bytes.Equal(a.data, patternBytes(int64(c.offset), int(c.length))) {
						t.Errorf("wrong bytes, %d of them", len(a.data))
					}
					if style != styleSimple && c.length > 0 && a.offset != c.offset {
						t.Errorf("data at %d, want at %d", a.offset, c.offset)
					}
				}
				// Whatever it was, the connection goes on.
				if a := n.request(0, cmdRead, 7, 3); !bytes.Equal(a.data, patternBytes(7, 3)) {
					t.Errorf("READ afterwards: %+v", a)
				}
			})
		}
	}
}

func TestReadsOverTheLimitFailAlone(t *testing.T) {
	for _, style := range styles {
		n := device(t, pattern(1<<40), style)
		if a := n.request(0, cmdRead, 1<<30, maxPayload); a.errno != 0 || len(a.data) != maxPayload {
			t.Errorf("style %d: %d bytes, error %d at the limit", style, len(a.data), a.errno)
		}
		want := uint32(errInvalid)
		if style != styleSimple {
			want = errOverflow
		}
		if a := n.request(0, cmdRead, 0, maxPayload+1); a.errno != want {
			t.Errorf("style %d: error %d above the limit, want %d", style, a.errno, want)
		}
		if a := n.request(0, cmdRead, 9, 9); !bytes.Equal(a.data, patternBytes(9, 9)) {
			t.Errorf("style %d: READ afterwards: %+v", style, a)
		}
	}
}

// errnoError is an error with a number, as devices of other packages have them.
type errnoError syscall.Errno

func (e errnoError) Error() string        { return "numbered" }
func (e errnoError) Errno() syscall.Errno { return syscall.Errno(e) }

func TestDeviceErrorsBecomeErrorNumbers(t *testing.T) {
	for _, c := range []struct {
		err  error
		want uint32
	}{
		{errors.New("no number"), errIO},
		{fmt.Errorf("read: %w", errnoError(syscall.ENOSPC)), errNoSpace},
		{&os.PathError{Op: "read", Path: "/x", Err: syscall.EINVAL}, errInvalid},
		{syscall.EDQUOT, errNoSpace},
		{syscall.EACCES, errPerm},
		{syscall.ENOMEM, errNoMem},
		{syscall.ESTALE, errIO},
		{fmt.Errorf("read: %w", context.DeadlineExceeded), errIO},
		{errors.New("wait"), errIO},
		{errors.New(strings.Repeat("long", 5000)), errIO},
		{errors.New("odd \x00\xff"), errIO},
	} {
		for _, style := range styles {
			n := device(t, readFunc(func(_ context.Context, p []byte, off int64) error {
				if off >= 4096 {
					p[0] = 0xee // must not be seen
					return c.err
				}
				return nil
			}), style)
			if a := n.request(0, cmdRead, 4096, 512); a.errno != c.want || a.data != nil || len(a.text) > maxString {
				t.Errorf("%v: got %+v, want error %d", c.err, a, c.want)
			} else if style != styleSimple && a.text != clip(c.err.Error()) {
				t.Errorf("%v: text %q", c.err, a.text)
			}
			if a := n.request(0, cmdRead, 0, 512); a.errno != 0 {
				t.Errorf("READ after %v: %+v", c.err, a)
			}
		}
	}
}

func TestManyRequestsAtOnceAreAnsweredInAnyOrder(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, style := range styles {
			const size = 1 << 30
			s := serve(t, ServerConfig{Exports: []Export{{Device: pattern(size)}}}, listen(t, network))
			n := dial(t, s.addr).chosen(style)
			type read struct {
				off uint64
				n   uint32
			}
			rng := rand.New(rand.NewPCG(1, 1))
			reads := make([]read, 1000)
			for i := range reads {
				reads[i] = read{rng.Uint64N(size), 1 + rng.Uint32N(1<<uint(rng.IntN(18)))}
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				for i, r := range reads {
					b := requestBytes(0, cmdRead, uint64(i), r.off, r.n)
					if style == styleExtended {
						b = extendedBytes(0, cmdRead, uint64(i), r.off, uint64(r.n))
					}
					if _, err := n.conn.Write(b); err != nil {
						t.Error(err)
						return
					}
				}
			})
			for seen := make(map[uint64]bool); len(seen) < len(reads); {
				a, err := readAnswer(n.conn, func(cookie uint64) uint32 { return reads[cookie].n })
				if err != nil {
					t.Fatal(err)
				}
				r := reads[a.cookie]
				switch {
				case seen[a.cookie]:
					t.Fatalf("request %d was answered twice", a.cookie)
				case r.off+uint64(r.n) > size && a.errno != errInvalid,
					r.off+uint64(r.n) <= size && !bytes.Equal(a.data, patternBytes(int64(r.off), int(r.n))):
					t.Fatalf("request %d, %d bytes at %d: error %d or wrong bytes", a.cookie, r.n, r.off, a.errno)
				}
				seen[a.cookie] = true
			}
			wg.Wait()
		}
	}
}

func TestASlowRequestHoldsNoOtherUp(t *testing.T) {
	gate := make(chan struct{})
	n := device(t, readFunc(func(ctx context.Context, p []byte, off int64) error {
		if off == 0 {
			<-gate
		}
		return nil
	}), styleStructured)
	n.write(requestBytes(0, cmdRead, 1, 0, 512))
	for i := range uint64(10) {
		n.write(requestBytes(0, cmdRead, 2+i, 512, 512))
		n.answer(2+i, 512)
	}
	close(gate)
	n.answer(1, 512)
}

func TestAClientThatReadsNothingHarmsOnlyItself(t *testing.T) {
	var mu sync.Mutex
	started := 0
	full := make(chan struct{})
	d := readFunc(func(_ context.Context, p []byte, off int64) error {
		mu.Lock()
		defer mu.Unlock()
		if started++; started == 16 {
			close(full)
		}
		return nil
	})
	s := serve(t, ServerConfig{Exports: []Export{{Device: d}}, Grace: 10 * time.Millisecond}, listen(t, "unix"))
	deaf := dial(t, s.addr).chosen(styleSimple)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range uint64(5000) {
			if _, err := deaf.conn.Write(requestBytes(0, cmdRead, i, 0, 1<<20)); err != nil {
				return // as it should: the server's limits leave no room for all of them
			}
		}
	})
	<-full
	well := dial(t, s.addr).chosen(styleSimple)
	for range 100 {
		well.request(0, cmdRead, 0, 4096)
	}
	mu.Lock()
	if limit := 100 + maxBytes>>20 + 8; started > limit { // 8: what may have left through the socket's buffer
		t.Errorf("%d reads were started for a client that reads nothing", started)
	}
	mu.Unlock()
	// The server ends although the client still reads nothing; serve's cleanup waits for that.
	s.stop()
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	s.done <- nil
	wg.Wait()
}

func TestDisconnectAnswersWhatIsUnderWay(t *testing.T) {
	gate := make(chan struct{})
	n := device(t, readFunc(func(context.Context, []byte, int64) error { <-gate; return nil }), styleSimple)
	n.write(requestBytes(0, cmdRead, 1, 0, 512))
	n.write(requestBytes(0, cmdDisconnect, 2, 0, 0))
	close(gate)
	n.answer(1, 512)
	n.closed()
}

func TestADisconnectRightBehindRequestsLosesNoReply(t *testing.T) {
	n := device(t, pattern(1<<20), styleSimple)
	sent := requestBytes(0, 99, 1, 0, 0) // answered by the reader itself
	sent = append(sent, requestBytes(0, 99, 2, 0, 0)...)
	n.write(append(sent, requestBytes(0, cmdDisconnect, 3, 0, 0)...))
	n.answer(1, 0)
	n.answer(2, 0)
	n.closed()
}

func TestABrokenStreamEndsTheConnection(t *testing.T) {
	n := device(t, pattern(1<<20), styleSimple)
	n.write(make([]byte, lenRequestHeader))
	n.closed()
}

func TestReadsOfAClientThatIsGoneAreCancelled(t *testing.T) {
	for name, last := range map[string][]byte{
		"between requests": nil,
		"in a header":      requestBytes(0, cmdRead, 2, 0, 512)[:13],
		"in a payload":     requestBytes(0, cmdWrite, 2, 0, 512),
	} {
		begun, ended := make(chan struct{}), make(chan struct{})
		n := device(t, readFunc(func(ctx context.Context, _ []byte, _ int64) error {
			close(begun)
			<-ctx.Done()
			close(ended)
			return ctx.Err()
		}), styleSimple)
		n.write(requestBytes(0, cmdRead, 1, 0, 512))
		<-begun
		n.write(last)
		n.conn.Close()
		<-ended
		t.Log(name)
	}
}

func TestReadsThatNeverCompleteEndWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		s := serve(t, ServerConfig{Grace: time.Minute, Exports: []Export{{Device: readFunc(
			func(ctx context.Context, _ []byte, off int64) error {
				if off == 0 {
					<-ctx.Done()
					return fmt.Errorf("read: %w", ctx.Err())
				}
				select {
				case <-time.After(30 * time.Second):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})}}}, l)
		n := l.dial(t).chosen(styleStructured)
		silent := l.dial(t) // one that negotiates
		silent.read(18)
		n.write(requestBytes(0, cmdRead, 1, 0, 512))
		n.write(requestBytes(0, cmdRead, 2, 512, 512))
		synctest.Wait()
		begin := time.Now()
		s.stop()
		silent.closed()
		if a := n.answer(2, 512); a.errno != 0 || time.Since(begin) != 30*time.Second {
			t.Errorf("the read that completes: error %d after %v", a.errno, time.Since(begin))
		}
		if a := n.answer(1, 512); a.errno != errShutdown || time.Since(begin) != time.Minute {
			t.Errorf("the read that does not: error %d after %v", a.errno, time.Since(begin))
		}
		n.closed()
		<-s.done
		s.done <- nil
	})
}

func TestConnectionsOverTheLimitAreTurnedAway(t *testing.T) {
	s := serve(t, ServerConfig{Exports: twoExports(), MaxConns: 1}, listen(t, "tcp"))
	first := dial(t, s.addr).chosen(styleSimple)
	dial(t, s.addr).closed()
	if a := first.request(0, cmdRead, 0, 8); a.errno != 0 {
		t.Errorf("the first connection: %+v", a)
	}
	if got := s.Stats(); got != (Stats{Connections: 1, Accepted: 2, Requests: 1, Bytes: 8}) {
		t.Errorf("Stats = %+v", got)
	}
}

// brokenListener fails as its errors say, then for good.
type brokenListener struct {
	net.Listener
	errs []error
}

func (l *brokenListener) Accept() (net.Conn, error) {
	if len(l.errs) == 0 {
		return l.Listener.Accept()
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, err
}

func TestServeOutlivesAWantOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		serve(t, ServerConfig{Exports: twoExports()}, &brokenListener{l, []error{syscall.EMFILE, syscall.ENFILE}})
		l.dial(t).chosen(styleSimple).request(0, cmdRead, 0, 8)
	})
}

func TestServeReturnsTheErrorOfItsListener(t *testing.T) {
	s, err := NewServer(ServerConfig{Exports: twoExports()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), &brokenListener{newPipeListener(), []error{syscall.EBADF}}); !errors.Is(err, syscall.EBADF) {
		t.Errorf("Serve = %v, want EBADF", err)
	}
}

// scripted is a connection on which the client says what is in r, and hears w.
type scripted struct {
	net.Conn
	r io.Reader
	w bytes.Buffer
}

func (c *scripted) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c *scripted) Write(p []byte) (int, error)      { return c.w.Write(p) }
func (c *scripted) Close() error                     { return nil }
func (c *scripted) SetReadDeadline(time.Time) error  { return nil }
func (c *scripted) SetWriteDeadline(time.Time) error { return nil }

// FuzzTransmission feeds a server any bytes in the transmission phase and checks that all it answers is well-formed, asked
// for, and true.
func FuzzTransmission(f *testing.F) {
	seed := requestBytes(cmdFlagDF, cmdRead, 1, 100, 5000)
	seed = append(seed, requestBytes(0, cmdWrite, 2, 0, 3)...)
	seed = append(seed, "abc"...)
	seed = append(seed, requestBytes(0, cmdFlush, 3, 0, 0)...)
	seed = append(seed, requestBytes(0, cmdRead, 4, 1<<20-1, 2)...)
	seed = append(seed, requestBytes(cmdFlagReqOne, cmdBlockStatus, 6, 4096, 8192)...)
	seed = append(seed, requestBytes(cmdFlagNoHole, cmdWriteZeroes, 7, 4096, 8192)...)
	f.Add(seed, uint8(styleStructured))
	f.Add(append(seed, requestBytes(0, cmdDisconnect, 5, 0, 0)...), uint8(styleSimple))
	f.Add(seed[:40], uint8(styleSimple))
	seed = extendedBytes(cmdFlagPayloadLen, cmdWrite, 1, 100, 3)
	seed = append(seed, "abc"...)
	seed = append(seed, extendedBytes(0, cmdWrite, 2, 100, 3)...)
	seed = append(seed, extendedBytes(0, cmdTrim, 3, 0, 1<<40)...)
	seed = append(seed, extendedBytes(0, cmdBlockStatus, 4, 0, 1<<19)...)
	seed = append(seed, extendedBytes(cmdFlagPayloadLen, cmdBlockStatus, 5, 0, 12)...)
	seed = append(seed, "\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x01"...)
	f.Add(seed, uint8(styleExtended))
	f.Fuzz(func(t *testing.T, sent []byte, style uint8) {
		const size = 1 << 20
		s := session{export: Export{Device: newDisk(size)}, style: replyStyle(style % 3)}
		s.can = s.export.capabilities()
		if s.style != styleSimple {
			s.contexts = s.export.contexts(s.extended())
		}
		conn := &scripted{r: bytes.NewReader(sent)}
		tr := newTransmission(t.Context(), s, conn, nil, new(Server))
		_ = tr.run(0)
		if tr.bytes != 0 || tr.requests != 0 {
			t.Errorf("%d bytes, %d requests are still acquired", tr.bytes, tr.requests)
		}
		asked, changed := requestsIn(sent, s.extended())
		for conn.w.Len() > 0 {
			a, err := readAnswer(&conn.w, func(cookie uint64) uint32 {
				if reqs := asked[cookie]; len(reqs) == 1 && reqs[0].command == cmdRead {
					return uint32(reqs[0].length)
				}
				return 0
			})
			if err != nil {
				t.Fatal(err)
			}
			reqs := asked[a.cookie]
			if len(reqs) == 0 {
				t.Fatalf("an answer that nobody asked for: %+v", a)
			}
			if len(reqs) > 1 {
				return // the client cannot tell which is meant, and so cannot we
			}
			r := reqs[0]
			if a.errno == 0 && r.command == cmdRead && (len(a.data) != int(r.length) || !changed && !bytes.Equal(a.data, make([]byte, r.length))) {
				t.Fatalf("wrong bytes for %d at %d", r.length, r.offset)
			}
			if a.errno == 0 && r.command == cmdBlockStatus && (len(a.extents) == 0 || len(a.extents) > len(s.contexts)) {
				t.Fatalf("status of %d contexts", len(a.extents))
			}
		}
	})
}

// requestsIn are the requests in what a client sent, by their cookies, and whether any could change the device.
func requestsIn(b []byte, extended bool) (asked map[uint64][]request, changed bool) {
	n := lenRequestHeader
	if extended {
		n = lenExtendedRequestHeader
	}
	asked = make(map[uint64][]request)
	for len(b) >= n {
		var r request
		if r.decode(b[:n], extended) != nil {
			break
		}
		changed = changed || r.command == cmdWrite
		asked[r.cookie] = append(asked[r.cookie], r)
		b = b[n:]
		b = b[min(r.payload, uint64(len(b))):]
	}
	return asked, changed
}
