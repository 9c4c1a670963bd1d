package nbd

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// played is a connection to a server whose bytes are given. It says nothing more until the client has sent as much as it is
// to have sent first.
type played struct {
	mu      sync.Mutex
	changed sync.Cond
	in      []byte
	sent    int
	until   int  // what the client has to send before the next byte
	more    bool // in is not all
	closed  bool
}

func newPlayed(in []byte) *played {
	p := &played{in: in}
	p.changed.L = &p.mu
	return p
}

func (p *played) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for (p.sent < p.until || p.more && len(p.in) == 0) && !p.closed {
		p.changed.Wait()
	}
	if len(p.in) == 0 || p.closed {
		return 0, io.EOF
	}
	n := copy(b, p.in)
	p.in = p.in[n:]
	return n, nil
}

func (p *played) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent += len(b)
	p.changed.Broadcast()
	return len(b), nil
}

func (p *played) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.changed.Broadcast()
	return nil
}

func (p *played) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (p *played) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (p *played) SetDeadline(time.Time) error      { return nil }
func (p *played) SetReadDeadline(time.Time) error  { return nil }
func (p *played) SetWriteDeadline(time.Time) error { return nil }

// recorded is what an honest server sends in a negotiation.
func recorded(form replyForm) []byte {
	var out bytes.Buffer
	s := &liar{conn: recorder{&out}, form: form, size: liarSize, flags: liarFlags}
	s.write([]byte(hello))
	options := []uint32{optExtendedHeaders, optStructuredReply, optSetMetaContext, optGo}
	switch form {
	case formExtended:
		options = []uint32{optExtendedHeaders, optSetMetaContext, optGo}
	case formSimple:
		options = []uint32{optExtendedHeaders, optStructuredReply, optGo}
	}
	for _, option := range options {
		s.answerOption(option, nil)
	}
	return out.Bytes()
}

// recorder is a connection that keeps what is written.
type recorder struct{ *bytes.Buffer }

func (recorder) Close() error                     { return nil }
func (recorder) LocalAddr() net.Addr              { return nil }
func (recorder) RemoteAddr() net.Addr             { return nil }
func (recorder) SetDeadline(time.Time) error      { return nil }
func (recorder) SetReadDeadline(time.Time) error  { return nil }
func (recorder) SetWriteDeadline(time.Time) error { return nil }

func FuzzClientNegotiation(f *testing.F) {
	for form := range formExtended + 1 {
		f.Add(recorded(form), false)
		f.Add(recorded(form), true)
	}
	f.Fuzz(func(t *testing.T, in []byte, list bool) {
		config := DialConfig{Timeout: time.Hour}
		if list {
			h := &handshake{conn: newPlayed(in), config: &config}
			if h.open(t.Context(), nil) == nil {
				_, _ = h.list()
			}
			return
		}
		c, err := NewClient(t.Context(), newPlayed(in), "x", config)
		if err != nil {
			return
		}
		if info := c.Info(); c.Size() < 0 || info.MinBlock == 0 || info.MaxPayload < info.MinBlock {
			t.Errorf("Info: %+v", info)
		}
		c.Close()
	})
}

// FuzzClientReplies plays a server's replies to four requests that are under way together, with cookies from 1 to 4 in the order in
// which they happen to go out. None may hang, panic, or succeed with bytes that did not come.
func FuzzClientReplies(f *testing.F) {
	const n = 4096
	honest := func(form replyForm) []byte {
		var out bytes.Buffer
		s := &liar{conn: recorder{&out}, form: form}
		for cookie := range uint64(4) {
			s.answer(call{command: cmdRead, cookie: cookie + 1, offset: 0, length: n})
		}
		return out.Bytes()
	}
	for form := range formExtended + 1 {
		f.Add(byte(form), honest(form))
	}
	for _, l := range lies4K() {
		s := &liar{form: l.form, conn: recorder{new(bytes.Buffer)}}
		if l.name != "pieces without end" {
			f.Add(byte(l.form), l.send(s, call{cookie: 1, offset: 8192, length: 4096}))
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, in []byte) {
		form := replyForm(kind % 3)
		negotiation := recorded(form)
		conn := newPlayed(negotiation)
		conn.more = true
		client, err := NewClient(t.Context(), conn, "x", DialConfig{Timeout: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		header := lenRequestHeader
		if form == formExtended {
			header = lenExtendedHeader
		}
		conn.mu.Lock()
		conn.in, conn.more, conn.until = in, false, conn.sent+3*header
		if form != formSimple {
			conn.until += header
		}
		conn.changed.Broadcast()
		conn.mu.Unlock()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				p := bytes.Repeat([]byte{0xcd}, n)
				if client.ReadAt(t.Context(), p, 8192) == nil && bytes.Count(in, []byte{0xcd}) < n && bytes.Equal(p, bytes.Repeat([]byte{0xcd}, n)) {
					t.Error("a read succeeded without bytes")
				}
			})
		}
		wg.Go(func() { _ = client.Flush(t.Context()) })
		wg.Go(func() {
			sum := int64(0)
			err := client.Extents(t.Context(), 8192, n, func(n int64, _, _ bool) bool { sum += n; return true })
			if err == nil && sum < n {
				t.Errorf("extents of %d bytes", sum)
			}
		})
		wg.Wait()
	})
}
