package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// clientOf returns a client of a server that negotiates and then runs script.
func clientOf(t *testing.T, form replyForm, script func(s *liar)) *Client {
	t.Helper()
	conn, s := liars(t, form)
	s.run(func() {
		s.negotiate()
		script(s)
	})
	client, err := NewClient(t.Context(), conn, "x", DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// cancelled runs do, cancels its context when now says so, and checks that it returns for this reason.
func cancelled(t *testing.T, now <-chan struct{}, do func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { result <- do(ctx) }()
	<-now
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("after it was cancelled: %v", err)
	}
}

func checkNextRead(t *testing.T, c *Client) {
	t.Helper()
	p := make([]byte, 4096)
	if err := c.ReadAt(t.Context(), p, 512); err != nil || !bytes.Equal(p, patternBytes(512, 4096)) {
		t.Errorf("the next read: %v", err)
	}
}

func TestAReadThatIsGivenUpLeavesItsBufferAlone(t *testing.T) {
	for _, c := range []struct {
		name string
		form replyForm
		half int // of the reply's bytes, sent before the read is given up
	}{
		{"before the reply", formStructured, 0},
		{"in the header", formStructured, 7},
		{"in the data", formStructured, 28 + 40_000},
		{"in simple data", formSimple, 16 + 100},
		{"in extended data", formExtended, 40 + 64},
	} {
		t.Run(c.name, func(t *testing.T) {
			now, on := make(chan struct{}), make(chan struct{})
			client := clientOf(t, c.form, func(s *liar) {
				request := s.request()
				data := bytes.Repeat([]byte{0xbb}, int(request.length))
				reply := append(simpleBytes(request, 0), data...)
				if s.form != formSimple {
					reply = s.chunkBytes(request, replyFlagDone, replyOffsetData, be64(request.offset), data)
				}
				s.write(reply[:c.half])
				close(now)
				<-on
				s.write(reply[c.half:])
				s.honest()
			})
			p := make([]byte, 100_000)
			cancelled(t, now, func(ctx context.Context) error { return client.ReadAt(ctx, p, 0) })
			for i := range p {
				p[i] = 0xaa
			}
			close(on)
			checkNextRead(t, client)
			if !bytes.Equal(p, bytes.Repeat([]byte{0xaa}, len(p))) {
				t.Error("the buffer was written to after the read returned")
			}
		})
	}
}

func TestAWriteThatIsGivenUpSendsWhatItWasGiven(t *testing.T) {
	for _, early := range []bool{false, true} {
		now, on := make(chan struct{}), make(chan struct{})
		want := patternBytes(0, 1<<20)
		client := clientOf(t, formStructured, func(s *liar) {
			s.read(1) // the client is sending now, and cannot go on
			close(now)
			<-on
			s.read(lenRequestHeader - 1)
			if early {
				// An error that comes before the server has read the data.
				s.write(s.chunkBytes(call{cookie: 1}, replyFlagDone, replyError, be32(errNoSpace), be16(0)))
			}
			if !bytes.Equal(s.read(len(want)), want) {
				t.Error("the server received other bytes")
			}
			if !early {
				s.write(s.chunkBytes(call{cookie: 1}, replyFlagDone, replyNone))
			}
			s.honest()
		})
		p := bytes.Clone(want)
		cancelled(t, now, func(ctx context.Context) error { return client.WriteAt(ctx, p, 0, false) })
		clear(p)
		cancelled(t, now, func(ctx context.Context) error { return client.WriteAt(ctx, p, 0, false) }) // not sent at all
		close(on)
		checkNextRead(t, client)
	}
}

func TestAnEarlyErrorLeavesTheBufferAlone(t *testing.T) {
	want := patternBytes(0, 1<<20)
	failed := make(chan struct{})
	client := clientOf(t, formStructured, func(s *liar) {
		s.read(lenRequestHeader)
		s.write(s.chunkBytes(call{cookie: 1}, replyFlagDone, replyError, be32(errNoSpace), be16(0)))
		<-failed
		if !bytes.Equal(s.read(len(want)), want) {
			t.Error("the server received other bytes")
		}
		s.honest()
	})
	p := bytes.Clone(want)
	var remote *RemoteError
	if err := client.WriteAt(t.Context(), p, 0, false); !errors.As(err, &remote) {
		t.Errorf("WriteAt: %v", err)
	}
	clear(p)
	close(failed)
	checkNextRead(t, client)
}

func TestACallThatIsOverBeforeItBeginsSendsNothing(t *testing.T) {
	client := clientOf(t, formSimple, func(s *liar) {
		if c := s.request(); c.command != cmdDisconnect {
			t.Errorf("%v was sent", &c)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	client.Close()
}

func TestCloseFailsWhatIsUnderWay(t *testing.T) {
	now := make(chan struct{})
	client := clientOf(t, formSimple, func(s *liar) {
		s.request()
		close(now)
		s.request()
	})
	result := make(chan error)
	go func() { result <- client.ReadAt(t.Context(), make([]byte, 1), 0) }()
	<-now
	client.Close()
	if err := <-result; err == nil {
		t.Error("a read succeeded without a reply")
	}
	if err := client.ReadAt(t.Context(), make([]byte, 1), 0); err == nil {
		t.Error("a closed client reads")
	}
}

// stalling is a connection that, once armed, stops in the middle of what is written to it.
type stalling struct {
	net.Conn
	armed    bool
	now, out chan struct{}
}

func (c *stalling) Write(b []byte) (int, error) {
	if !c.armed {
		return c.Conn.Write(b)
	}
	c.armed = false
	n, err := c.Conn.Write(b[:len(b)/2])
	if err != nil {
		return n, err
	}
	close(c.now)
	<-c.out
	m, err := c.Conn.Write(b[len(b)/2:])
	return n + m, err
}

func TestAReadThatIsGivenUpInTheMiddleOfARecordOfTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	conn, s := liars(t, formStructured)
	stall := &stalling{Conn: s.conn, now: make(chan struct{}), out: make(chan struct{})}
	s.run(func() {
		s.greet()
		if option, _ := s.option(); option != optStartTLS {
			t.Errorf("the first option is %d", option)
		}
		s.write(optReplyBytes(optStartTLS, repAck))
		s.conn = tls.Server(stall, &tls.Config{Certificates: web.TLS.Certificates})
		for !s.answerOption(s.option()) {
		}
		request := s.request()
		stall.armed = true
		s.answer(request)
		s.honest()
	})
	client, err := NewClient(t.Context(), conn, "x", DialConfig{TLS: &tls.Config{RootCAs: web.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	p := make([]byte, 100_000)
	cancelled(t, stall.now, func(ctx context.Context) error { return client.ReadAt(ctx, p, 0) })
	clear(p)
	close(stall.out)
	checkNextRead(t, client)
	if !bytes.Equal(p, make([]byte, len(p))) {
		t.Error("the buffer was written to after the read returned")
	}
}
