package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// inTurn returns a client whose connections, in the order in which they are opened, are served by the scripts; further
// ones are refused.
func inTurn(t *testing.T, config DialConfig, scripts ...func(s *liar)) *Client {
	t.Helper()
	var mu sync.Mutex
	config.Dial = func(context.Context, string, string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if len(scripts) == 0 {
			return nil, errors.New("refused")
		}
		conn, s := liars(t, formStructured)
		script := scripts[0]
		scripts = scripts[1:]
		s.run(func() { script(s) })
		return conn, nil
	}
	c, err := Dial(t.Context(), "nbd://server/x", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// crash serves n requests honestly, reads one more, and hangs up.
func crash(n int) func(s *liar) {
	return func(s *liar) {
		s.negotiate()
		for range n {
			s.answer(s.request())
		}
		s.request()
		s.conn.Close()
	}
}

func goOn(s *liar) {
	s.negotiate()
	s.honest()
}

func TestRequestsAreAskedAgainAfterACrash(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(context.Context, *Client) error
	}{
		{"read", func(ctx context.Context, c *Client) error {
			p := make([]byte, 5000)
			if err := c.ReadAt(ctx, p, 1); err != nil || bytes.Equal(p, patternBytes(1, 5000)) {
				return err
			}
			return errors.New("other bytes")
		}},
		{"write", func(ctx context.Context, c *Client) error { return c.WriteAt(ctx, make([]byte, 5000), 1, false) }},
		{"forced write", func(ctx context.Context, c *Client) error { return c.WriteAt(ctx, make([]byte, 5000), 1, true) }},
		{"zeroes", func(ctx context.Context, c *Client) error { return c.WriteZeroes(ctx, 0, 1, true, false, false) }},
		{"trim", func(ctx context.Context, c *Client) error { return c.Trim(ctx, 0, 1, false) }},
		{"prefetch", func(ctx context.Context, c *Client) error { return c.Prefetch(ctx, 0, 1) }},
		{"flush of nothing", func(ctx context.Context, c *Client) error { return c.Flush(ctx) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := inTurn(t, DialConfig{Reconnect: time.Hour}, crash(0), crash(0), goOn)
			if err := c.do(t.Context(), client); err != nil {
				t.Error(err)
			}
			never := inTurn(t, DialConfig{}, crash(0), goOn)
			if err := c.do(t.Context(), never); err == nil || !strings.Contains(err.Error(), "hung up") {
				t.Errorf("without reconnecting: %v", err)
			}
			if err := c.do(t.Context(), never); err == nil {
				t.Errorf("without reconnecting the client goes on")
			}
		})
	}
}

func TestAServerThatShutsDownIsLeft(t *testing.T) {
	client := inTurn(t, DialConfig{Reconnect: time.Hour}, func(s *liar) {
		s.negotiate()
		s.write(s.chunkBytes(s.request(), replyFlagDone, replyError, be32(errShutdown), be16(0)))
		s.request()
	}, goOn)
	if err := client.ReadAt(t.Context(), make([]byte, 1), 0); err != nil {
		t.Error(err)
	}
}

func TestFlushTellsOnceThatWritesMayBeLost(t *testing.T) {
	ctx := t.Context()
	write := func(c *Client) {
		t.Helper()
		if err := c.WriteAt(ctx, []byte{1}, 0, false); err != nil {
			t.Fatal(err)
		}
	}
	check := func(c *Client, want error) {
		t.Helper()
		if err := c.Flush(ctx); !errors.Is(err, want) {
			t.Errorf("Flush: %v, want %v", err, want)
		}
	}
	t.Run("the next one", func(t *testing.T) {
		c := inTurn(t, DialConfig{Reconnect: time.Hour}, crash(1), goOn)
		write(c)
		if err := c.ReadAt(ctx, make([]byte, 1), 0); err != nil { // across the crash
			t.Fatal(err)
		}
		check(c, ErrWritesLost)
		check(c, nil)
	})
	t.Run("the one under way", func(t *testing.T) {
		c := inTurn(t, DialConfig{Reconnect: time.Hour}, crash(1), goOn)
		write(c)
		check(c, ErrWritesLost)
		check(c, nil)
	})
	t.Run("all that are under way", func(t *testing.T) {
		c := inTurn(t, DialConfig{Reconnect: time.Hour}, func(s *liar) {
			s.negotiate()
			s.answer(s.request())
			s.request()
			s.request()
			s.conn.Close()
		}, goOn)
		write(c)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { check(c, ErrWritesLost) })
		}
		wg.Wait()
		check(c, nil)
	})
	t.Run("not when all was flushed", func(t *testing.T) {
		c := inTurn(t, DialConfig{Reconnect: time.Hour}, crash(2), goOn)
		write(c)
		check(c, nil)
		check(c, nil)
	})
	t.Run("not when it was written by force", func(t *testing.T) {
		c := inTurn(t, DialConfig{Reconnect: time.Hour}, crash(1), goOn)
		if err := c.WriteAt(ctx, []byte{1}, 0, true); err != nil {
			t.Fatal(err)
		}
		check(c, nil)
	})
}

func TestAnotherExportThanBeforeIsNotTaken(t *testing.T) {
	other := func(change func(s *liar)) func(s *liar) {
		return func(s *liar) {
			change(s)
			goOn(s)
		}
	}
	for _, c := range []struct {
		name   string
		second func(s *liar)
		want   string
	}{
		{"its size", other(func(s *liar) { s.size++ }), "its size was 1048576 and is 1048577"},
		{"read-only", other(func(s *liar) { s.flags |= exportReadOnly }), "read-only was false and is true"},
		{"its flags", other(func(s *liar) { s.flags &^= exportTrim }), "its flags"},
		{"its replies", other(func(s *liar) { s.form = formSimple }), "the form of replies was structured and is simple"},
		{"it is gone", func(s *liar) {
			s.greet()
			for {
				if option, data := s.option(); option == optGo {
					s.write(optReplyBytes(option, repErrUnknown))
				} else {
					s.answerOption(option, data)
				}
			}
		}, "no export of this name"},
		{"it lies", func(s *liar) { s.write(make([]byte, 100)) }, "breaks the NBD protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := inTurn(t, DialConfig{Reconnect: time.Hour}, crash(0), c.second, goOn)
			if err := client.ReadAt(t.Context(), make([]byte, 1), 0); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ReadAt: %v, want %q", err, c.want)
			}
		})
	}
}

func TestALieIsTheEndEvenWithReconnecting(t *testing.T) {
	client := inTurn(t, DialConfig{Reconnect: time.Hour}, func(s *liar) {
		s.negotiate()
		s.write(s.chunkBytes(s.request(), replyFlagDone, replyNone))
		s.honest()
	}, goOn)
	for range 2 {
		if err := client.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, ErrProtocol) {
			t.Errorf("ReadAt: %v", err)
		}
	}
}

func TestReconnectingEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := inTurn(t, DialConfig{Reconnect: time.Minute}, crash(0))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := client.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a read with a deadline: %v", err)
		}
		began := time.Now()
		err := client.ReadAt(t.Context(), make([]byte, 1), 0)
		if err == nil || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), "hung up") {
			t.Errorf("ReadAt: %v, want why the connection was lost and why there is no other", err)
		}
		if took := time.Since(began); took != time.Minute-time.Second {
			t.Errorf("it took %v", took)
		}
		client.Close()
	})
}

func TestCloseEndsReconnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := inTurn(t, DialConfig{Reconnect: time.Hour}, crash(0))
		result := make(chan error)
		go func() { result <- client.ReadAt(t.Context(), make([]byte, 1), 0) }()
		synctest.Wait()
		client.Close()
		if err := <-result; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadAt: %v", err)
		}
	})
}

func TestAServerThatSaysNothingIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		_, err := NewClient(t.Context(), ours, "x", DialConfig{Timeout: time.Minute})
		if err == nil || !strings.Contains(err.Error(), "1m0s") {
			t.Errorf("NewClient: %v", err)
		}
	})
}

func TestFurtherConnectionsThatAreNotAnsweredAreDoneWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		many := func(s *liar) {
			s.flags |= exportMultiConn
			goOn(s)
		}
		client := inTurn(t, DialConfig{Connections: 4}, many, many, func(s *liar) { s.read(1) })
		if n := client.Info().Connections; n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
		client.Close()
	})
}

// crashDisk is what a server that crashes has: what was flushed stays, what was only written does not.
type crashDisk struct {
	mu               sync.Mutex
	volatile, stable []byte
	random           *rand.Rand
}

// serve serves honestly, with a crash every now and then, before or after a request is carried out.
func (d *crashDisk) serve(s *liar) {
	s.negotiate()
	for {
		c := s.request()
		if d.chance() {
			d.crash(s)
			return
		}
		d.mu.Lock()
		switch c.command {
		case cmdWrite:
			copy(d.volatile[c.offset:], c.data)
			if c.flags&cmdFlagFUA != 0 {
				copy(d.stable[c.offset:], c.data)
			}
		case cmdFlush:
			copy(d.stable, d.volatile)
		}
		d.mu.Unlock()
		if d.chance() {
			d.crash(s)
			return
		}
		s.answer(c)
	}
}

// crash ends a connection, and forgets what is not stable before the client can know and write anew.
func (d *crashDisk) crash(s *liar) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.volatile = slices.Clone(d.stable)
	s.conn.Close()
}

func (d *crashDisk) chance() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.random.IntN(30) == 0
}

func TestNothingThatWasFlushedIsLost(t *testing.T) {
	d := &crashDisk{volatile: make([]byte, liarSize), stable: make([]byte, liarSize), random: rand.New(rand.NewPCG(1, 2))}
	client := inTurn(t, DialConfig{Reconnect: time.Hour}, slices.Repeat([]func(s *liar){d.serve}, 2000)...)
	const block, writers = 512, 4
	var wg sync.WaitGroup
	type written struct {
		block int64
		value byte
	}
	var lost int
	wantStable := make([]byte, liarSize/block)
	var log []written // since the last flush that succeeded
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 200 {
		var mu sync.Mutex
		for w := range int64(writers) {
			at, value := random.Int64N(liarSize/block/writers)*writers+w, byte(round+1)
			force := random.IntN(8) == 0
			wg.Go(func() {
				if err := client.WriteAt(t.Context(), bytes.Repeat([]byte{value}, block), at*block, force); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				log = append(log, written{at, value})
			})
		}
		wg.Wait()
		if round%5 != 4 {
			continue
		}
		for {
			err := client.Flush(t.Context())
			if err == nil {
				break
			}
			if !errors.Is(err, ErrWritesLost) {
				t.Fatal(err)
			}
			lost++
			for _, l := range log {
				if err := client.WriteAt(t.Context(), bytes.Repeat([]byte{l.value}, block), l.block*block, false); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, l := range log {
			wantStable[l.block] = l.value
		}
		log = nil
		d.mu.Lock()
		for i, v := range wantStable {
			if got := d.stable[i*block]; got != v {
				t.Errorf("round %d: block %d has %d on stable storage, want %d", round, i, got, v)
			}
		}
		d.mu.Unlock()
	}
	if lost == 0 {
		t.Error("no crash lost a write: the test tests nothing")
	}
	t.Log(fmt.Sprint(lost, " times were writes in doubt"))
}
