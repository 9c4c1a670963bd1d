package mcast

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

var tapes = flag.Int("tapes", 100, "long random inputs to try")

// tape hands out the bytes of a fuzz input, then zeros.
type tape []byte

func (t *tape) byte() int {
	if len(*t) == 0 {
		return 0
	}
	b := (*t)[0]
	*t = (*t)[1:]
	return int(b)
}

func (t *tape) uint32() uint32 {
	return uint32(t.byte())<<24 | uint32(t.byte())<<16 | uint32(t.byte())<<8 | uint32(t.byte())
}

// world is two servers and a client whose datagrams a fuzz input delivers, drops, repeats, delays, damages and forges.
type world struct {
	now     time.Time
	image   *testImage
	senders []*Sender
	r       *Receiver
	flying  []datagram
}

type datagram struct {
	from, to byte // host; 0 is the group
	data     []byte
}

func newWorld() *world {
	w := &world{now: epoch, image: newTestImage(10<<12, 4<<10)}
	w.senders = []*Sender{newTestSender(1, w.image), newTestSender(2, w.image)}
	w.r = newTestReceiver(w.image)
	return w
}

// collect takes what the machines have to say.
func (w *world) collect() {
	for i, s := range w.senders {
		for range 4 {
			b := s.NextBurst(w.now)
			if b == nil {
				break
			}
			for _, data := range b.datagrams() {
				w.flying = append(w.flying, datagram{byte(i + 1), 0, data})
			}
		}
		for _, p := range s.Packets() {
			w.flying = append(w.flying, datagram{byte(i + 1), w.host(p), p.Data})
		}
	}
	w.r.Step(w.now)
	for _, p := range w.r.Packets() {
		w.flying = append(w.flying, datagram{9, w.host(p), p.Data})
	}
	if n := len(w.flying); n > 500 {
		w.flying = w.flying[n-500:]
	}
}

func (w *world) host(p Packet) byte {
	if p.To == testGroup {
		return 0
	}
	return p.To.Addr().As4()[3]
}

func (w *world) deliver(d datagram) {
	for i, s := range w.senders {
		if d.to == byte(i+1) || d.to == 0 && d.from == 9 {
			s.Input(w.now, addr(d.from), bytes.Clone(d.data))
		}
	}
	if d.from != 9 {
		w.r.Input(w.now, addr(d.from), bytes.Clone(d.data))
	}
}

// act does what the next bytes of the tape say.
func (w *world) act(in *tape) {
	pick := func() int {
		if len(w.flying) == 0 {
			return -1
		}
		return in.byte() % len(w.flying)
	}
	total := w.image.geometry.Total()
	switch op := in.byte(); op % 24 {
	case 0, 1, 2, 3, 4, 5: // the oldest arrives
		for range 1 + op/24 {
			if len(w.flying) > 0 {
				d := w.flying[0]
				w.flying = w.flying[1:]
				w.deliver(d)
			}
		}
	case 6: // any arrives, and may again
		if i := pick(); i >= 0 {
			w.deliver(w.flying[i])
		}
	case 7: // is lost
		if i := pick(); i >= 0 {
			w.flying = append(w.flying[:i], w.flying[i+1:]...)
		}
	case 8, 9: // is damaged
		if i := pick(); i >= 0 {
			d := w.flying[i]
			d.data = bytes.Clone(d.data)
			for range 1 + in.byte()%3 {
				d.data[4+in.byte()%min(len(d.data)-4, 60)] = byte(in.byte())
			}
			w.deliver(d)
		}
	case 10: // is cut short or made longer
		if i := pick(); i >= 0 {
			d := w.flying[i]
			n := in.byte() * 8 % (len(d.data) + 1)
			if n%2 == 0 {
				d.data = append(bytes.Clone(d.data), make([]byte, n)...)
			} else {
				d.data = d.data[:n]
			}
			w.deliver(d)
		}
	case 11: // anything
		b := []byte{0x44, 0x4e, 1, byte(in.byte() % 9)}
		for range in.byte() {
			b = append(b, byte(in.byte()))
		}
		w.deliver(datagram{byte(in.byte() % 10), byte(in.byte() % 3), b})
	case 12: // a symbol that its server did not send
		s := w.senders[in.byte()%2]
		d := wire.Data{
			Server: s.cfg.Server, Handle: 1, Epoch: s.cfg.Epoch, Seq: uint64(in.uint32()) << (in.byte() % 16), Backlog: uint16(in.byte()) << 8,
			Block: uint32(in.byte()), Index: uint16(in.byte()) << (in.byte() % 8), K: uint16(in.byte()) << (in.byte() % 8),
			Left: uint8(in.byte()), Class: wire.Priority(in.byte()),
		}
		w.deliver(datagram{byte(s.cfg.Server), 0, append(d.AppendHeader(nil), make([]byte, in.byte()*5)...)})
	case 13:
		w.r.Want(w.now, uint32(in.byte())%total, wire.Priority(in.byte()%2))
	case 14:
		w.r.WantBulk(w.now, uint32(in.byte())%total)
	case 15:
		w.r.Cancel(uint32(in.byte()) % total)
	case 16:
		w.r.Refuse(w.now, uint32(in.byte())%total, wire.Demand)
	case 17, 18: // time
		w.now = w.now.Add(time.Duration(in.byte()) * time.Microsecond << (in.byte() % 18))
	case 19: // the time that a machine named
		if next := w.r.Next(w.now); next.After(w.now) {
			w.now = next
		}
	case 20: // blocks are read, or not
		for _, s := range w.senders {
			for _, l := range s.Loads() {
				if in.byte() == 255 {
					s.Loaded(l, nil, errors.New("bad sector"))
				} else {
					s.Loaded(l, w.image.block(l.Block), nil)
				}
			}
		}
	case 21:
		for _, s := range w.senders {
			s.Tick(w.now)
		}
	case 22:
		w.senders[in.byte()%2].SetState(1, wire.ImageState(in.byte()%2))
	case 23: // a server is started anew
		i := in.byte() % 2
		w.senders[i] = newTestSender(uint16(i+1), w.image)
		w.senders[i].cfg.Epoch += 10
		w.senders[i].jar = newCookieJar([32]byte{9}, w.senders[i].cfg.Epoch)
	}
}

func (w *world) check() error {
	if err := w.r.check(w.now); err != nil {
		return fmt.Errorf("receiver: %w", err)
	}
	for _, s := range w.senders {
		if err := s.check(w.now); err != nil {
			return fmt.Errorf("sender: %w", err)
		}
	}
	return nil
}

// FuzzMachines: whatever happens to the datagrams of two servers and a client, the machines' books agree, their memory is bounded,
// none names a time for its next step that has come already, and in the end, on a network that is well again, every block comes.
func FuzzMachines(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{13, 3, 0, 0, 0, 0, 0, 20, 0, 0, 0, 0, 7, 1, 0, 19, 0, 0})
	f.Add([]byte{14, 1, 14, 2, 14, 3, 17, 200, 10, 0, 0, 0, 0, 20, 120, 8, 3, 1, 20, 99, 19, 19, 0, 0})
	f.Add([]byte{13, 3, 0, 0, 0, 0, 0, 23, 0, 19, 0, 0, 0, 22, 0, 1, 21, 0, 0, 0, 16, 3, 0})
	f.Fuzz(play)
}

// TestAnyTreatmentOfDatagramsLeavesTheBooksRight is FuzzMachines with long random inputs.
func TestAnyTreatmentOfDatagramsLeavesTheBooksRight(t *testing.T) {
	for seed := range *tapes {
		input := make([]byte, 2000)
		rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(input)
		t.Run(fmt.Sprint(seed), func(t *testing.T) { play(t, input) })
	}
}

// play lets an input happen, and then lets all be well.
func play(t *testing.T, input []byte) {
	w := newWorld()
	in := tape(input[:min(len(input), 2000)])
	for len(in) > 0 {
		w.act(&in)
		w.collect()
		w.r.Blocks()
		if err := w.check(); err != nil {
			t.Fatal(err)
		}
	}
	w.flying = nil
	for _, s := range w.senders {
		s.SetState(1, wire.ImageServed)
	}
	left := w.image.geometry.Total()
	have := make([]bool, left)
	for block := range left {
		w.r.WantBulk(w.now, block)
		w.r.Want(w.now, block, wire.Demand)
	}
	for range 100_000 {
		for _, s := range w.senders {
			s.Tick(w.now)
			w.image.load(s)
		}
		w.collect()
		for len(w.flying) > 0 {
			d := w.flying[0]
			w.flying = w.flying[1:]
			w.deliver(d)
		}
		for _, b := range w.r.Blocks() {
			if !bytes.Equal(b.Data, w.image.block(b.Index)) {
				w.r.Refuse(w.now, b.Index, wire.Demand)
			} else if !have[b.Index] {
				have[b.Index] = true
				left--
			}
		}
		if left == 0 {
			return
		}
		w.r.Step(w.now)
		if err := w.check(); err != nil {
			t.Fatal(err)
		}
		next := w.r.Next(w.now)
		for _, s := range w.senders {
			if t := s.Next(w.now); t.Before(next) {
				next = t
			}
		}
		w.now = next.Add(time.Microsecond)
		if w.now.Sub(epoch) > 24*time.Hour {
			break
		}
	}
	t.Fatalf("%d blocks never came: %d wanted, %d replicas", left, len(w.r.wants), len(w.r.replicas))
}
