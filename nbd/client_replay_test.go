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
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// replaying is a client's configuration that loses nothing.
var replaying = DialConfig{Reconnect: time.Hour, Replay: MinReplay}

// heard is a script that serves n requests honestly, tells told of them, reads one more, and hangs up.
func heard(n int, told chan<- call) func(s *liar) {
	return func(s *liar) {
		s.negotiate()
		for range n {
			c := s.request()
			told <- c
			s.answer(c)
		}
		s.request()
		s.conn.Close()
	}
}

func write(t *testing.T, c *Client, value byte, off int64, n int, fua bool) {
	t.Helper()
	if err := c.WriteAt(t.Context(), bytes.Repeat([]byte{value}, n), off, fua); err != nil {
		t.Fatal(err)
	}
}

// ask reads, across whatever happens to the connection.
func (c *Client) ask(t *testing.T) {
	t.Helper()
	if err := c.ReadAt(t.Context(), make([]byte, 1), 0); err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasNotFlushedIsReplayed(t *testing.T) {
	type want struct {
		command uint16
		off, n  uint64
		value   byte
	}
	for _, c := range []struct {
		name  string
		do    func(c *Client)
		asked int // requests that do makes
		want  []want
	}{
		{"a write", func(c *Client) { write(t, c, 1, 100, 50, false) }, 1, []want{{cmdWrite, 100, 50, 1}}},
		{"the last of two", func(c *Client) {
			write(t, c, 1, 100, 50, false)
			write(t, c, 2, 90, 70, false)
		}, 2, []want{{cmdWrite, 90, 70, 2}}},
		{"what a later one left", func(c *Client) {
			write(t, c, 1, 100, 50, false)
			write(t, c, 2, 120, 10, false)
		}, 2, []want{{cmdWrite, 100, 20, 1}, {cmdWrite, 120, 10, 2}, {cmdWrite, 130, 20, 1}}},
		{"not what was flushed", func(c *Client) {
			write(t, c, 1, 100, 50, false)
			if err := c.Flush(t.Context()); err != nil {
				t.Error(err)
			}
			write(t, c, 2, 200, 10, false)
		}, 3, []want{{cmdWrite, 200, 10, 2}}},
		{"nothing over what was forced", func(c *Client) {
			write(t, c, 1, 100, 50, false)
			write(t, c, 2, 120, 30, true)
		}, 2, []want{{cmdWrite, 100, 20, 1}}},
		{"zeroes and trims", func(c *Client) {
			if err := errors.Join(c.WriteZeroes(t.Context(), 0, 8192, false, true, false), c.Trim(t.Context(), 4096, 1024, false)); err != nil {
				t.Error(err)
			}
		}, 2, []want{{cmdWriteZeroes, 0, 4096, 0}, {cmdTrim, 4096, 1024, 0}, {cmdWriteZeroes, 5120, 3072, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, after := make(chan call, 10), make(chan call, 100)
			// The first replay breaks off, too.
			client := inTurn(t, replaying, heard(c.asked, before), crash(len(c.want)-1), heard(len(c.want)+1, after))
			c.do(client)
			client.ask(t)
			got := make([]want, len(c.want))
			for i := range got {
				r := <-after
				if got[i] = (want{r.command, r.offset, r.length, 0}); len(r.data) > 0 {
					got[i].value = r.data[0]
				}
				if r.command == cmdWriteZeroes && r.flags != cmdFlagNoHole {
					t.Errorf("zeroes with flags %x", r.flags)
				}
			}
			slices.SortFunc(got, func(a, b want) int { return int(a.off) - int(b.off) })
			if !slices.Equal(got, c.want) {
				t.Errorf("replayed %v, want %v", got, c.want)
			}
			if r := <-after; r.command != cmdRead {
				t.Errorf("then came %v, want the read", &r)
			}
			client.Close()
		})
	}
}

func TestAFlushUnderWayIsAskedAgainAfterTheReplay(t *testing.T) {
	after := make(chan call, 10)
	client := inTurn(t, replaying, crash(1), heard(2, after))
	write(t, client, 1, 0, 1, false)
	if err := client.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if a, b := <-after, <-after; a.command != cmdWrite || b.command != cmdFlush {
		t.Errorf("the new server was asked to %v and to %v", &a, &b)
	}
	client.Close()
}

func TestAReplayThatIsRefusedIsTold(t *testing.T) {
	client := inTurn(t, replaying, crash(1), func(s *liar) {
		s.negotiate()
		s.write(s.chunkBytes(s.request(), replyFlagDone, replyError, be32(errNoSpace), be16(0)))
		s.honest()
	})
	write(t, client, 1, 0, 1, false)
	if err := client.Flush(t.Context()); !errors.Is(err, ErrWritesLost) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the flush under way: %v", err)
	}
	if err := client.Flush(t.Context()); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

func TestNothingIsReplayedToAnotherExport(t *testing.T) {
	client := inTurn(t, replaying, crash(1), func(s *liar) {
		s.size++
		s.negotiate()
		c := s.request()
		s.t.Errorf("the other export is asked to %v", &c)
	})
	write(t, client, 1, 0, 1, false)
	if err := client.Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "its size was") {
		t.Error(err)
	}
}

func TestAFullLogIsFlushed(t *testing.T) {
	flushes := make(chan struct{}, 1000)
	client := inTurn(t, replaying, func(s *liar) {
		s.negotiate()
		for {
			c := s.request()
			if c.command == cmdFlush {
				flushes <- struct{}{}
			}
			s.answer(c)
		}
	})
	for i := range int64(1000) {
		write(t, client, 1, i*1000, 100, false)
	}
	write(t, client, 1, 0, liarSize, false)
	client.Close()
	// Half the log holds 128 small writes; the large one does not fit as a whole.
	if len(flushes) < 4 {
		t.Errorf("%d flushes for 1000 writes", len(flushes))
	}
	if client.log.used > MinReplay {
		t.Errorf("%d bytes are kept", client.log.used)
	}
}

func TestAFlushThatFailsInTheBackgroundIsTold(t *testing.T) {
	client := inTurn(t, replaying, func(s *liar) {
		s.negotiate()
		for {
			if c := s.request(); c.command == cmdFlush {
				s.write(s.chunkBytes(c, replyFlagDone, replyError, be32(errIO), be16(0)))
			} else {
				s.answer(c)
			}
		}
	})
	var err error
	for i := int64(0); err == nil && i < 1000; i++ {
		err = client.WriteAt(t.Context(), make([]byte, 100), i*1000, false)
	}
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("a write for which there is no room: %v", err)
	}
	if err := client.Flush(t.Context()); !errors.Is(err, ErrWritesLost) || !errors.Is(err, syscall.EIO) {
		t.Errorf("Flush: %v", err)
	}
}

func TestOverlappingWritesWaitForOneAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := make(chan struct{})
		client := inTurn(t, replaying, func(s *liar) {
			s.negotiate()
			first := s.request()
			<-start
			second := s.request()
			if second.offset != 200 {
				s.t.Errorf("%v came before %v was answered", &second, &first)
			}
			s.answer(second)
			s.answer(first)
			s.honest()
		})
		var wg sync.WaitGroup
		for _, off := range []int64{0, 50, 200} {
			wg.Go(func() { write(t, client, 1, off, 100, false) })
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := client.WriteAt(ctx, make([]byte, 1), 99, false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one that waits with a deadline: %v", err)
		}
		close(start)
		wg.Wait()
		client.Close()
	})
}

func TestAnAnswerOfABrokenConnectionDoesNotCount(t *testing.T) {
	var client *Client
	dialled := make(chan struct{})
	end := func(n int) {
		client.mu.Lock()
		defer client.mu.Unlock()
		client.generation += n
	}
	client = inTurn(t, replaying, func(s *liar) {
		s.negotiate()
		<-dialled
		first := s.request()
		end(1) // before the caller notes the answer
		s.answer(first)
		if again := s.request(); again.command == cmdWrite && again.offset == first.offset {
			end(-1)
			s.answer(again)
		}
		s.honest()
	})
	close(dialled)
	write(t, client, 1, 100, 50, false)
	client.mu.Lock()
	defer client.mu.Unlock()
	if len(client.log.kept) != 1 {
		t.Errorf("%d writes are kept", len(client.log.kept))
	}
}

func TestReplayHasItsConditions(t *testing.T) {
	dial := func(config DialConfig, change func(s *liar)) error {
		conn, s := liars(t, formStructured)
		change(s)
		s.run(func() { goOn(s) })
		config.Dial = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
		c, err := Dial(t.Context(), "nbd://server/x", config)
		if err == nil {
			err = c.Close()
		}
		return err
	}
	as := func(*liar) {}
	if err := dial(DialConfig{Replay: MinReplay}, as); err == nil {
		t.Error("without reconnecting it is taken")
	}
	if err := dial(DialConfig{Replay: MinReplay - 1, Reconnect: 1}, as); err == nil {
		t.Error("too small a log is taken")
	}
	if err := dial(replaying, func(s *liar) { s.flags &^= exportFlush }); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a server that cannot flush: %v", err)
	}
	if err := dial(replaying, func(s *liar) { s.flags = exportHasFlags | exportReadOnly }); err != nil {
		t.Errorf("a read-only export: %v", err)
	}
}

// volatile is a server with several connections whose crashes lose what was not flushed.
type volatile struct {
	t *testing.T

	mu          sync.Mutex
	now, stable []byte
	life        int // counts crashes
	conns       []net.Conn
	crashes     int
	random      *rand.Rand
	calm        bool // nothing happens any more
}

func (v *volatile) dial(context.Context, string, string) (net.Conn, error) {
	conn, s := liars(v.t, formStructured)
	s.flags |= exportMultiConn
	v.mu.Lock()
	defer v.mu.Unlock()
	life := v.life
	v.conns = append(v.conns, s.conn)
	s.run(func() {
		s.negotiate()
		for {
			c := s.request()
			reply, ok := v.carryOut(s, c, life)
			if !ok {
				return
			}
			s.write(reply)
			v.mu.Lock()
			v.mishapLocked() // just after the answer
			v.mu.Unlock()
		}
	})
	return conn, nil
}

// carryOut carries out a request, with a crash now and then before or after it. It returns false when the server is gone.
func (v *volatile) carryOut(s *liar, c call, life int) ([]byte, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c.command == cmdDisconnect || life != v.life || v.mishapLocked() {
		return nil, false
	}
	part := v.now[c.offset : c.offset+c.length]
	switch c.command {
	case cmdRead:
		return s.chunkBytes(c, replyFlagDone, replyOffsetData, be64(c.offset), part), !v.mishapLocked()
	case cmdWrite:
		copy(part, c.data)
	case cmdWriteZeroes, cmdTrim:
		clear(part)
	case cmdFlush:
		copy(v.stable, v.now)
	}
	if c.flags&cmdFlagFUA != 0 {
		copy(v.stable[c.offset:], part)
	}
	return s.chunkBytes(c, replyFlagDone, replyNone), !v.mishapLocked()
}

// mishapLocked crashes the server, or only loses the connections, now and then.
func (v *volatile) mishapLocked() bool {
	if v.calm || v.random.IntN(120) > 0 {
		return false
	}
	if v.random.IntN(4) > 0 {
		copy(v.now, v.stable)
		v.crashes++
	}
	v.life++
	for _, conn := range v.conns {
		conn.Close()
	}
	v.conns = nil
	return true
}

func TestNothingThatWasAnsweredIsLost(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			v := &volatile{t: t, now: make([]byte, liarSize), stable: make([]byte, liarSize), random: rand.New(rand.NewPCG(seed, 1))}
			config := replaying
			config.Dial, config.Connections = v.dial, 1+int(seed)
			client, err := Dial(t.Context(), "nbd://server/x", config)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			survive(t, client, v, rand.New(rand.NewPCG(seed, 2)))
			if v.crashes < 10 {
				t.Errorf("%d crashes: the test tests little", v.crashes)
			}
		})
	}
}

// survive writes here and there, with several writes under way that may overlap, and looks whether all is there.
func survive(t *testing.T, client *Client, v *volatile, random *rand.Rand) {
	const block, blocks, together = 512, 600, 6
	want := make([]byte, blocks) // what each block is filled with
	got := make([]byte, blocks*block)
	check := func(what string, bytes []byte) {
		t.Helper()
		for i, w := range want {
			if b := bytes[i*block]; b != w || bytes[(i+1)*block-1] != w {
				t.Fatalf("block %d is %d %s, want %d", i, b, what, w)
			}
		}
	}
	value := byte(0)
	for round := range 150 {
		may := make(map[int][]byte) // of blocks that are written by several at once
		var wg sync.WaitGroup
		for range together {
			first := random.IntN(blocks)
			n := min(1+random.IntN(8), blocks-first)
			kind, fua := random.IntN(6), random.IntN(5) == 0
			value++
			p := bytes.Repeat([]byte{value}, n*block)
			if kind < 2 {
				clear(p)
			}
			for i := first; i < first+n; i++ {
				may[i] = append(may[i], p[0])
			}
			wg.Go(func() {
				off, size := int64(first*block), int64(n*block)
				var err error
				switch kind {
				case 0:
					err = client.Trim(t.Context(), off, size, fua)
				case 1:
					err = client.WriteZeroes(t.Context(), off, size, true, false, fua)
				default:
					err = client.WriteAt(t.Context(), p, off, fua)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := client.ReadAt(t.Context(), got, 0); err != nil {
			t.Fatal(err)
		}
		for i, values := range may {
			if want[i] = got[i*block]; !slices.Contains(values, want[i]) {
				t.Fatalf("round %d: block %d is %d, was written with %v", round, i, want[i], values)
			}
		}
		check("when it is read", got)
		if round%7 == 6 {
			if err := client.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			v.mu.Lock()
			check("on stable storage", v.stable)
			v.mu.Unlock()
		}
	}
	client.mu.Lock()
	defer client.mu.Unlock()
	if err := client.log.sound(); err != nil {
		t.Error(err)
	}
}

// sound says what is wrong with a log while no write is under way.
func (u *unflushed) sound() error {
	end, used := int64(0), int64(0)
	for _, k := range u.kept {
		if k.off < end || k.end <= k.off || k.command == cmdWrite && int64(len(k.data)) != k.end-k.off {
			return fmt.Errorf("%d to %d with %d bytes of data, after %d", k.off, k.end, len(k.data), end)
		}
		end = k.end
		used += k.cost()
	}
	if used != u.used || used > u.limit || len(u.busy) > 0 {
		return fmt.Errorf("%d of %d bytes are used, and it says %d, with %d under way", used, u.limit, u.used, len(u.busy))
	}
	return nil
}

func FuzzUnflushed(f *testing.F) {
	f.Add([]byte{0, 10, 20, 0, 12, 3, 1, 0, 40, 4, 0, 0, 2, 11, 2, 3, 5, 9})
	f.Add(bytes.Repeat([]byte{0, 3, 200}, 40))
	f.Fuzz(func(t *testing.T, in []byte) {
		const size, unit = 300, 1024 // units
		type last struct {
			command uint16
			value   byte
			answer  uint64
		}
		var model [size]last
		u := newUnflushed(1<<20, 1)
		u.piece = 4 * unit
		for value := byte(1); len(in) >= 3; in, value = in[3:], value+1 {
			off, n := uint64(in[1])*unit, (uint64(in[2]%44)+1)*unit
			s := span{off, off + n}
			r := call{offset: off, length: n, command: cmdWrite}
			fill := last{answer: u.answers + 1}
			switch in[0] % 5 {
			case 0, 1:
				r.data = bytes.Repeat([]byte{value}, int(n))
				fill.value = value
			case 2:
				r.command = cmdTrim
			case 3:
				r.command = cmdWriteZeroes
			case 4: // a flush that began a while ago
				answered := u.answers - min(u.answers, uint64(in[1]%3))
				u.flushed(answered)
				for i := range model {
					if model[i].answer <= answered {
						model[i] = last{}
					}
				}
				continue
			}
			if fill.command = r.command; in[0]&128 != 0 {
				r.flags, fill = cmdFlagFUA, last{}
			}
			need := u.need(&r)
			if u.used+need > u.limit {
				continue
			}
			u.enter(s, need)
			if !u.overlaps(span{off, off + 1}) || u.overlaps(span{s.to, s.to + 1}) {
				t.Fatal("the write under way is elsewhere")
			}
			before := u.used
			u.put(s, u.copies(&r))
			if u.used > before+need {
				t.Fatalf("%d bytes were needed, not %d", u.used-before, need)
			}
			u.leave(s, need)
			clear(r.data)
			for i := s.from / unit; i < s.to/unit; i++ {
				model[i] = fill
			}
			if err := u.sound(); err != nil {
				t.Fatal(err)
			}
		}
		var got [size]last
		for _, k := range u.kept {
			for i := k.off; i < k.end; i += unit {
				got[i/unit] = last{command: k.command, answer: k.answer}
				if k.data != nil {
					got[i/unit].value = k.data[i-k.off]
				}
			}
		}
		if got != model {
			t.Errorf("kept %v, want %v", got, model)
		}
	})
}
