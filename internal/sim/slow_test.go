package sim

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// others is how many clients copy an image in the tests below, beside one that is slow or broken.
const others = 7

// copied lets the first clients copy the image, and returns how long that took and what the server sent meanwhile, both as parts of what
// they are with these clients alone.
func (r *room) copied(seed uint64) (took, sent float64) {
	r.t.Helper()
	run := func(r *room) (time.Duration, uint64) {
		r.until(time.Minute, "the others have the image", func() bool {
			for _, c := range r.clients[:others] {
				if c.Left > 0 {
					return false
				}
			}
			return true
		})
		return r.elapsed(), r.servers[0].SentBytes
	}
	alone := newRoom(r.t, seed, r.image.desc.Size, r.image.desc.BlockSize)
	alone.serve()
	alone.copy(others, Link{})
	d, bytes := run(alone)
	with, all := run(r)
	return float64(with) / float64(d), float64(all) / float64(bytes)
}

// portOf is the port of a client that keeps so many bytes waiting.
func portOf(rate float64, queue int) Link { return Link{In: rate, Queue: queue, Delay: lan} }

func TestASlowClientReadsOverNBDAndDoesNotHoldTheOthers(t *testing.T) {
	for _, c := range []struct {
		rate  float64
		queue int
		most  float64 // of their time that the others take: what the slow one reads over NBD is sent by the server's port, too
	}{
		{port / 20, 64 << 10, 1.1},
		{port / 10, 1500 << 10, 1.2}, // half a second: all answers are late
	} {
		t.Run(fmt.Sprintf("%v Mbit per s, %d KiB", c.rate/1e6, c.queue>>10), func(t *testing.T) {
			seeds(t, 2, func(t *testing.T, seed uint64) {
				r := newRoom(t, seed, 128<<20, 64<<10)
				s := r.serve()
				r.copy(others, Link{})
				slow := r.join(portOf(c.rate, c.queue))
				slow.ReadFrom(s)
				slow.Copy()
				took, sent := r.copied(seed)
				t.Logf("the others took %.3f of their time without a slow one, the server sent %.3f of its bytes", took, sent)
				if took > c.most {
					t.Errorf("the others took %.3f of their time", took)
				}
				if slow.Leaves == 0 {
					t.Error("the slow one stayed in the group")
				}
				r.finish(5 * time.Minute)
				least := float64(r.image.desc.Size) * 8 / c.rate
				part := slow.Done.Sub(r.start).Seconds() / least
				t.Logf("the slow one took %.3f of what its port takes at least; %d of %d blocks over NBD, it left %d times", part, slow.Fetched,
					r.image.Total(), slow.Leaves)
				if part > 1.25 {
					t.Errorf("the slow one took %.3f of what its port takes", part)
				}
			})
		})
	}
}

func TestASlowClientComesBackWhenItsPortIsWidened(t *testing.T) {
	seeds(t, 2, func(t *testing.T, seed uint64) {
		const rate = 50e6
		r := newRoom(t, seed, 32<<20, 64<<10)
		s := r.serveOver(Link{Rate: rate, Delay: lan})
		for range 3 {
			r.join(Link{}).Stream()
		}
		c := r.join(portOf(rate/20, 64<<10))
		c.ReadFrom(s)
		c.Stream()
		r.until(3*time.Second, "it leaves the group", func() bool { return c.away })
		r.wait(30 * time.Second)
		if c.Leaves < 2 || c.Leaves > 4 {
			t.Errorf("it left the group %d times in half a minute", c.Leaves)
		}
		c.Link = Link{Delay: lan}
		r.until(2*time.Minute, "it is in the group", func() bool { return !c.away })
		leaves, fetched, heard := c.Leaves, c.Fetched, c.Receiver.Stats().Symbols
		r.wait(10 * time.Second)
		if c.Leaves > leaves || c.Receiver.Stats().Symbols-heard < 20_000 || c.Fetched-fetched > 16 {
			t.Errorf("it left %d times more, heard %d symbols, and got %d blocks over NBD", c.Leaves-leaves, c.Receiver.Stats().Symbols-heard,
				c.Fetched-fetched)
		}
	})
}

// A medium that loses is no slow link: who loses like others stays, and so does who loses somewhat more.
func TestAClientThatLosesStaysInTheGroupAndGetsWhatItAsksFor(t *testing.T) {
	for _, loss := range []float64{0.2, 0.3} {
		seeds(t, 2, func(t *testing.T, seed uint64) {
			r := newRoom(t, seed, 32<<20, 64<<10)
			s := r.serve()
			r.copy(3, Link{})
			lossy := r.join(Link{Loss: loss})
			lossy.ReadFrom(s)
			lossy.Copy()
			late := r.join(Link{Loss: 0.5})
			r.After(time.Second, late.Copy)
			r.finish(time.Minute)
			if st := s.Sender.Stats(); lossy.Leaves > 0 || st.Refused > 0 {
				t.Errorf("loss %v: left %d times, %d requests refused", loss, lossy.Leaves, st.Refused)
			}
		})
	}
}

func TestAClientThatHearsNothingCostsTheGroupHardlyAnything(t *testing.T) {
	for _, from := range []time.Duration{0, 2 * time.Second} {
		t.Run(from.String(), func(t *testing.T) {
			seeds(t, 3, func(t *testing.T, seed uint64) {
				r := newRoom(t, seed, 128<<20, 64<<10)
				r.serve()
				r.copy(others, Link{})
				broken := r.join(Link{Deaf: from == 0})
				broken.Copy()
				r.read(broken, 32, 0)
				r.After(from, func() { broken.Link.Deaf = true })
				took, sent := r.copied(seed)
				t.Logf("the others took %.3f of their time without it, the server sent %.3f of its bytes", took, sent)
				if sent > 1.05 {
					t.Errorf("the server sent %.3f of its bytes", sent)
				}
			})
		})
	}
}

// liar is a host that asks a server for one block for ever.
type liar struct {
	*Node
	server *Server
	tell   func(w *wire.Want, last uint64) // what it says that it heard of a stream
	cookie uint64
	epoch  uint32
	last   uint64 // number of the stream, as the last ACK said
	stamp  uint32
}

func (r *room) liar(s *Server, tell func(w *wire.Want, last uint64)) *liar {
	l := &liar{server: s, tell: tell}
	l.Node = r.NewNode(Link{Delay: lan}, l.hear)
	l.act()
	return l
}

func (l *liar) hear(_ netip.AddrPort, b []byte) {
	if w, err := wire.ParseWelcome(b); err == nil {
		l.cookie, l.epoch = w.Cookie, w.Epoch
	}
	if a, err := wire.ParseAck(b); err == nil {
		l.last = a.Seq
	}
}

func (l *liar) act() {
	if l.cookie == 0 {
		l.Send(l.server.Addr, (&wire.Hello{Nonce: 1}).Append(nil))
	} else {
		l.stamp++
		w := wire.Want{
			Server: 1, Handle: 1, Epoch: l.epoch, Cookie: l.cookie, Time: l.stamp,
			Ranges: []wire.Range{{Block: 3, Count: 1, Priority: wire.Demand}},
		}
		l.tell(&w, l.last)
		l.Send(l.server.Addr, w.Append(nil))
	}
	l.world.After(time.Millisecond, l.act)
}

func TestWhoAsksForABlockForEverCostsTheGroupHardlyAnything(t *testing.T) {
	for _, c := range []struct {
		name string
		tell func(w *wire.Want, last uint64)
	}{
		{"that never heard anything", func(*wire.Want, uint64) {}},
		{"that lost all", func(w *wire.Want, last uint64) { w.Joined, w.Seen = true, last }},
		{"that lost nothing", func(w *wire.Want, last uint64) { w.Joined, w.Seen, w.Received = true, last, uint32(last) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			seeds(t, 2, func(t *testing.T, seed uint64) {
				r := newRoom(t, seed, 128<<20, 64<<10)
				s := r.serve()
				r.copy(others, Link{})
				r.liar(s, c.tell)
				took, sent := r.copied(seed)
				t.Logf("the others took %.3f of their time without it, the server sent %.3f of its bytes, and refused %d requests", took, sent,
					s.Sender.Stats().Refused)
				if sent > 1.05 {
					t.Errorf("the server sent %.3f of its bytes", sent)
				}
			})
		})
	}
}
