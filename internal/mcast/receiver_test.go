package mcast

import (
	"net/netip"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// newTestPair returns a Receiver and a Sender, number 1, of an image of so many blocks of 4 KiB, that have met, and the time.
func newTestPair(t *testing.T, blocks int64) (r *Receiver, s *Sender, now time.Time) {
	t.Helper()
	i := newTestImage(blocks<<12, 4<<10)
	r, s, now = newTestReceiver(i), newTestSender(1, i), epoch
	meetServer(t, r, s, now, 1)
	return r, s, now
}

// meetServer lets a Receiver at addr(9) find a Sender at addr(id).
func meetServer(t *testing.T, r *Receiver, s *Sender, now time.Time, id byte) *replica {
	t.Helper()
	for range 5 {
		r.Step(now)
		for _, p := range r.Packets() {
			s.Input(now, addr(9), p.Data)
		}
		for _, p := range s.Packets() {
			r.Input(now, addr(id), p.Data)
		}
	}
	for _, p := range r.replicas {
		if p.addr == addr(id) {
			return p
		}
	}
	t.Fatal("they did not meet")
	return nil
}

// forge is a symbol of a block of four, in the name of the server that s is.
func forge(s *Sender, seq uint64, block uint32, index uint16) []byte {
	d := wire.Data{Server: s.cfg.Server, Handle: 1, Epoch: s.cfg.Epoch, Seq: seq, Block: block, Index: index, K: 4}
	return append(d.AppendHeader(nil), make([]byte, 1024)...)
}

func TestForgedSymbolsOfEveryBlockDoNotFillTheMemory(t *testing.T) {
	i := newTestImage(256<<20, 4<<10)
	s := newTestSender(1, i)
	for _, bulk := range []bool{false, true} {
		r := newTestReceiver(i)
		meetServer(t, r, s, epoch, 1)
		if bulk {
			for block := range i.geometry.Total() {
				r.WantBulk(epoch, block)
			}
		}
		now := epoch
		for block := range uint32(50_000) {
			r.Input(now, addr(1), forge(s, uint64(block+1), block, 0))
			if block%16 == 0 {
				now = now.Add(time.Millisecond)
				r.Step(now)
				r.Packets()
			}
			if block%1000 == 0 {
				r.Step(now)
				if err := r.check(now); err != nil {
					t.Fatalf("bulk %v, after %d blocks: %v", bulk, block, err)
				}
			}
		}
		if len(r.wants) > 1000 {
			t.Errorf("bulk %v: %d blocks asked for", bulk, len(r.wants))
		}
	}
}

func TestAForgedNumberIsSetRightByAnAck(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s := newTestSender(1, i)
	r := newTestReceiver(i)
	p := meetServer(t, r, s, epoch, 1)
	r.Input(epoch, addr(1), forge(s, 1<<40, 50, 0))
	if p.stream.seen != 1<<40 {
		t.Fatalf("seen is %d", p.stream.seen)
	}
	r.Want(epoch, 3, wire.Demand)
	meetServer(t, r, s, epoch, 1)
	if p.stream.seen != 0 {
		t.Errorf("seen is %d after an ACK", p.stream.seen)
	}
}

func TestWhomAReceiverListensTo(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s := newTestSender(1, i)
	other := addr(8)
	for _, c := range []struct {
		name  string
		from  netip.AddrPort
		spoil func(d *wire.Data)
		heard bool
	}{
		{"its server", addr(1), func(*wire.Data) {}, true},
		{"another port of its server", netip.AddrPortFrom(addr(1).Addr(), 5), func(*wire.Data) {}, true},
		{"a stranger", other, func(*wire.Data) {}, false},
		{"another server id", addr(1), func(d *wire.Data) { d.Server++ }, false},
		{"another epoch", addr(1), func(d *wire.Data) { d.Epoch++ }, false},
		{"another image", addr(1), func(d *wire.Data) { d.Handle++ }, false},
	} {
		r := newTestReceiver(i)
		p := meetServer(t, r, s, epoch, 1)
		d := wire.Data{Server: 1, Handle: 1, Epoch: s.cfg.Epoch, Seq: 5, Block: 3, K: 4}
		c.spoil(&d)
		r.Input(epoch, c.from, append(d.AppendHeader(nil), make([]byte, 1024)...))
		if heard := p.stream.joined; heard != c.heard {
			t.Errorf("%s: heard %v", c.name, heard)
		}
	}
}

// The nonce of the first question is known to everybody, that of the second to the server alone.
func TestAnOfferMustAnswerTheQuestionThatNobodyElseHeard(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	e := i.export(1)
	for _, c := range []struct {
		name    string
		nonce   func(public, private uint64) uint64
		adopted bool
	}{
		{"the nonce of the question to all", func(public, _ uint64) uint64 { return public }, false},
		{"the nonce of the question to it", func(_, private uint64) uint64 { return private }, true},
		{"a guess", func(_, private uint64) uint64 { return private + 1 }, false},
	} {
		r := newTestReceiver(i)
		r.Step(epoch)
		w := wire.Welcome{Server: 1, Nonce: c.nonce(r.asked, r.greeter.nonce(addr(1))), Parts: 1, Cookie: 5, Offers: []wire.Offer{e.Offer}}
		r.Input(epoch, addr(1), w.Append(nil))
		if adopted := len(r.replicas) == 1; adopted != c.adopted {
			t.Errorf("%s: adopted %v", c.name, adopted)
		}
	}
}

func TestOnlyOffersOfTheImageCount(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	for _, c := range []struct {
		name  string
		spoil func(o *wire.Offer)
	}{
		{"another root", func(o *wire.Offer) { o.Root[0]++ }},
		{"another size", func(o *wire.Offer) { o.Size++ }},
		{"another block size", func(o *wire.Offer) { o.BlockLog++ }},
		{"another hash", func(o *wire.Offer) { o.Algorithm++ }},
		{"a name that is none", func(o *wire.Offer) { o.Name = "" }},
		{"a group that is none", func(o *wire.Offer) { o.Group = addr(7) }},
	} {
		r := newTestReceiver(i)
		o := i.export(1).Offer
		c.spoil(&o)
		w := wire.Welcome{Server: 1, Nonce: r.greeter.nonce(addr(1)), Parts: 1, Offers: []wire.Offer{o}}
		r.Input(epoch, addr(1), w.Append(nil))
		if len(r.replicas) > 0 {
			t.Errorf("%s: adopted", c.name)
		}
	}
}

func TestAServerThatLeavesIsPassedOverUntilItSpeaksAgain(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s := newTestSender(1, i)
	r := newTestReceiver(i)
	p := meetServer(t, r, s, epoch, 1)
	s.Leave()
	r.Input(epoch, addr(1), s.Packets()[0].Data)
	if p.live(epoch) {
		t.Error("it is asked all the same")
	}
	r.Input(epoch, addr(1), forge(s, 1, 3, 0))
	if !p.live(epoch) {
		t.Error("a forged farewell lasts")
	}
}

func TestASilentServerIsForgotten(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s := newTestSender(1, i)
	r := newTestReceiver(i)
	meetServer(t, r, s, epoch, 1)
	r.Want(epoch, 3, wire.Demand)
	now := epoch
	for range 10_000 {
		r.Step(now)
		r.Packets()
		if err := r.check(now); err != nil {
			t.Fatalf("after %v: %v", now.Sub(epoch), err)
		}
		now = r.Next(now)
		if len(r.replicas) == 0 {
			break
		}
	}
	if silent := now.Sub(epoch); silent < replicaAge || silent > replicaAge+2*time.Second {
		t.Errorf("forgotten after %v", silent)
	}
	if r.Waiting() != 1 {
		t.Errorf("%d blocks waited for", r.Waiting())
	}
	meetServer(t, r, s, now.Add(time.Minute), 1)
}

func TestSymbolsOfAServerThatIsNotKnownMakeItAskTheGroup(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s := newTestSender(1, i)
	for _, c := range []struct {
		name   string
		from   netip.AddrPort
		symbol []byte
		asked  int // in ten seconds of such symbols
	}{
		{"its own", addr(1), forge(s, 5, 3, 0), 0},
		{"another's", addr(2), forge(newTestSender(2, i), 5, 3, 0), 8}, // then it waits for the announcement
	} {
		r := newTestReceiver(i)
		meetServer(t, r, s, epoch, 1)
		asked := 0
		for now := epoch; now.Sub(epoch) < 10*time.Second; now = now.Add(5 * time.Millisecond) {
			r.Input(now, c.from, c.symbol)
			r.Step(now)
			for _, p := range r.Packets() {
				if p.To == testGroup {
					asked++
				}
			}
		}
		if asked != c.asked {
			t.Errorf("%s: asked the group %d times, want %d", c.name, asked, c.asked)
		}
	}
}

func TestAServerIsSuspendedWhenNothingOfItComes(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	for _, fed := range []bool{false, true} {
		senders := []*Sender{newTestSender(1, i), newTestSender(2, i)}
		r := newTestReceiver(i)
		now := epoch
		for n, s := range senders {
			now = now.Add(helloFirst)
			r.stranger(now)
			meetServer(t, r, s, now, byte(n+1))
		}
		for block := range i.geometry.Total() {
			r.Want(now, block, wire.Demand)
		}
		suspended := false
		for seq := uint64(1); now.Sub(epoch) < 10*time.Second; seq += 100 {
			for n, s := range senders { // they answer, and their bursts go nowhere
				for _, p := range r.Packets() {
					senders[p.To.Addr().As4()[3]-1].Input(now, addr(9), p.Data)
				}
				for _, p := range s.Packets() {
					r.Input(now, addr(byte(n+1)), p.Data)
				}
				if fed {
					r.Input(now, addr(byte(n+1)), forge(s, seq, uint32(seq/100%50), 0)) // of a block that never becomes complete
				}
			}
			now = now.Add(5 * time.Millisecond)
			r.Step(now)
			for _, p := range r.replicas {
				suspended = suspended || now.Before(p.suspended)
			}
		}
		if suspended == fed {
			t.Errorf("suspended %v where symbols come: %v", suspended, fed)
		}
	}
}

func TestWhoComesToACrowdWhileABlockIsSentAsksForAllOfIt(t *testing.T) {
	for _, c := range []struct {
		name    string
		clients int
		heard   []int // numbers of the stream; block 3 is 1 to 4, block 4 is 5 to 8
		block   uint32
		need    uint16
	}{
		{"it has heard its end", 100, []int{3, 4}, 3, 0},
		{"it has heard its end and the next block", 100, []int{3, 4, 5, 6, 7, 8}, 3, 0},
		{"it came before and lost what came first", 100, []int{2, 7, 8}, 4, 2},
		{"it lacks little of it", 100, []int{2, 3, 4}, 3, 1},
		{"there are few others", 8, []int{3, 4}, 3, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := newTestImage(10<<12, 4<<10)
			s, r := newTestSender(1, i), newTestReceiver(i)
			meetServer(t, r, s, epoch, 1)
			answer(t, s, epoch, addr(8), s.ask(addr(8), -1, whole(3), whole(4)))
			symbols := i.drain(s, epoch)
			for _, n := range c.heard {
				r.Input(epoch, addr(1), symbols[n-1])
			}
			end := wire.Data{Server: 1, Handle: 1, Epoch: s.cfg.Epoch, Seq: 8}
			r.Input(epoch, addr(1), end.AppendHeader(nil))
			r.Want(epoch, c.block, wire.Demand)
			r.clients = c.clients
			now := epoch
			for range 100 {
				r.Step(now)
				now = r.Next(now)
				for _, p := range r.Packets() {
					w := wire.Want{}
					if err := wire.ParseWant(p.Data, &w); err == nil && len(w.Ranges) > 0 {
						if w.Ranges[0].Block != c.block || w.Ranges[0].Need != c.need {
							t.Errorf("it asks for %+v", w.Ranges)
						}
						return
					}
				}
			}
			t.Error("it does not ask")
		})
	}
}
