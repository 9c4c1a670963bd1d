package mcast

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// order is the blocks that datagrams carry, each once, in order.
func order(t *testing.T, datagrams [][]byte) []uint32 {
	t.Helper()
	var out []uint32
	for _, b := range datagrams {
		var d wire.Data
		if _, err := wire.ParseData(b, &d); err != nil {
			t.Fatal(err)
		}
		if d.K > 0 && (len(out) == 0 || out[len(out)-1] != d.Block) {
			out = append(out, d.Block)
		}
	}
	return out
}

func run(block uint32, count uint16, class wire.Priority) wire.Range {
	return wire.Range{Block: block, Count: count, Priority: class}
}

func TestDemandGoesBeforeReadAheadBeforeBulk(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s := newTestSender(1, i)
	answer(t, s, epoch, addr(9), s.ask(addr(9), 0, run(0, 3, wire.Bulk), run(20, 3, wire.ReadAhead), run(40, 3, wire.Demand)))
	answer(t, s, epoch, addr(8), s.ask(addr(8), 0, run(60, 1, wire.Demand)))
	got := order(t, i.drain(s, epoch))
	demand := got[:4]
	slices.Sort(demand)
	if want := []uint32{40, 41, 42, 60, 20, 21, 22, 0, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

func TestADemandOvertakesWhatIsLoadedAlready(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s := newTestSender(1, i)
	answer(t, s, epoch, addr(9), s.ask(addr(9), 0, run(0, 10, wire.Bulk)))
	i.load(s)
	answer(t, s, epoch, addr(8), s.ask(addr(8), 0, run(7, 1, wire.Demand))) // loaded as bulk
	answer(t, s, epoch, addr(7), s.ask(addr(7), 0, run(50, 1, wire.Demand)))
	if got, want := order(t, i.drain(s, epoch)), []uint32{7, 50, 0, 1, 2, 3, 4, 5, 6, 8, 9}; !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

// 99 clients that read the same together get as much as one that reads something else, not 99 times as much.
func TestACrowdAndALonerGetEqualShares(t *testing.T) {
	for _, class := range []wire.Priority{wire.Demand, wire.ReadAhead, wire.Bulk} {
		i := newTestImage(1000<<12, 4<<10)
		s := newTestSender(1, i)
		for host := range byte(99) {
			answer(t, s, epoch, addr(100+host), s.ask(addr(100+host), 0, run(0, 400, class)))
		}
		answer(t, s, epoch, addr(9), s.ask(addr(9), 0, run(500, 400, class)))
		first := order(t, i.drain(s, epoch))[2*loadAhead:][:200] // what was loaded before the others came goes first
		loner := 0
		for _, block := range first {
			if block >= 500 {
				loner++
			}
		}
		if loner < 90 || loner > 110 {
			t.Errorf("class %d: %d of 200 blocks are the loner's", class, loner)
		}
	}
}

func TestClientsThatReadDifferentBlocksGetEqualShares(t *testing.T) {
	i := newTestImage(1000<<12, 4<<10)
	s := newTestSender(1, i)
	const clients = 5
	for host := range uint32(clients) {
		from := addr(byte(10 + host))
		// The first asks for ten times as much as the others.
		count := uint16(20)
		if host == 0 {
			count = 200
		}
		answer(t, s, epoch, from, s.ask(from, 0, run(200*host, count, wire.Bulk)))
	}
	share := map[uint32]int{}
	for _, block := range order(t, i.drain(s, epoch))[loadAhead:][:50] {
		share[block/200]++
	}
	for host := range uint32(clients) {
		if share[host] < 9 || share[host] > 11 {
			t.Errorf("client %d got %d of 50 blocks", host, share[host])
		}
	}
}

func TestASilentClientIsForgottenAndItsJobsWithIt(t *testing.T) {
	i := newTestImage(200<<12, 4<<10)
	s := newTestSender(1, i)
	silent, other := addr(8), addr(9)
	answer(t, s, epoch, silent, s.ask(silent, 0, run(0, 100, wire.Bulk)))
	answer(t, s, epoch, other, s.ask(other, 0, run(90, 60, wire.Bulk)))
	loading := s.Loads() // under way when it is forgotten
	later := epoch.Add(peerAge + time.Second)
	answer(t, s, later, other, s.ask(other, 0))
	s.Tick(later)
	if err := s.check(later); err != nil {
		t.Error(err)
	}
	if len(s.peers) != 1 {
		t.Errorf("%d clients", len(s.peers))
	}
	for _, l := range loading {
		s.Loaded(l, i.block(l.Block), nil)
	}
	sent := order(t, i.drain(s, later))
	for block := uint32(90); block < 150; block++ {
		if !slices.Contains(sent, block) {
			t.Errorf("block %d, which another wants too, was not sent", block)
		}
	}
	if len(sent) > 60+len(loading) {
		t.Errorf("%d blocks sent: those of a client that is gone, too", len(sent))
	}
	if s.exports[1].ahead(wire.Bulk) != 0 || len(s.exports[1].wanted) != 0 {
		t.Errorf("%d symbols in the books", s.exports[1].ahead(wire.Bulk))
	}
}

func TestNoClientCanQueueMoreThanItsShare(t *testing.T) {
	i := newTestImage(1<<28, 4<<10)
	s := newTestSender(1, i)
	for n := range uint32(5) {
		w := s.ask(addr(9), 0)
		for r := range uint32(100) {
			w.Ranges = append(w.Ranges, run(n*10_000+r*100, 100, wire.Bulk))
		}
		answer(t, s, epoch, addr(9), w)
	}
	if n := s.peers[addr(9)].queued; n > maxQueued {
		t.Errorf("%d blocks queued", n)
	}
	if ack := answer(t, s, epoch, addr(8), s.ask(addr(8), 0, whole(60_000))); ack.Queued != 1 {
		t.Errorf("another client: %+v", ack)
	}
}

func TestABlockThatCannotBeReadIsForgotten(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	s := newTestSender(1, i)
	answer(t, s, epoch, addr(9), s.ask(addr(9), 0, run(0, 3, wire.Demand)))
	for _, l := range s.Loads() {
		if l.Block == 1 {
			s.Loaded(l, nil, errors.New("bad sector"))
		} else {
			s.Loaded(l, i.block(l.Block), nil)
		}
	}
	if got := order(t, i.drain(s, epoch)); !slices.Equal(got, []uint32{0, 2}) {
		t.Errorf("sent %v", got)
	}
	if err := s.check(epoch); err != nil {
		t.Error(err)
	}
	if ack := answer(t, s, epoch, addr(9), s.ask(addr(9), 8, whole(1))); ack.Queued != 1 {
		t.Errorf("asked again: %+v", ack)
	}
}

func TestNothingOfAWithdrawnImageIsSent(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s := newTestSender(1, i)
	answer(t, s, epoch, addr(9), s.ask(addr(9), 0, run(0, 60, wire.Bulk)))
	loads := s.Loads()
	s.Loaded(loads[0], i.block(loads[0].Block), nil)
	s.SetState(1, wire.ImageWithdrawn)
	for _, l := range loads[1:] {
		s.Loaded(l, i.block(l.Block), nil)
	}
	if got := i.drain(s, epoch); len(got) > 0 {
		t.Errorf("%d symbols sent", len(got))
	}
	if err := s.check(epoch); err != nil {
		t.Error(err)
	}
}

func TestADrainingSenderSendsWhatIsQueuedAndTakesNothingMore(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s := newTestSender(1, i)
	answer(t, s, epoch, addr(9), s.ask(addr(9), 0, run(0, 60, wire.Bulk)))
	if s.Drain(); s.Drained() {
		t.Error("it has drained with 60 blocks in its queue")
	}
	s.Packets()
	w := s.ask(addr(8), 0, whole(70))
	s.Input(epoch, addr(8), w.Append(nil))
	if d, err := wire.ParseDeny(s.Packets()[0].Data); err != nil || d.Reason != wire.DenyWithdrawn {
		t.Errorf("a request is answered with %+v, %v", d, err)
	}
	s.Tick(epoch)
	if a, err := wire.ParseAnnounce(s.Packets()[0].Data); err != nil || a.Images[0].State != wire.ImageWithdrawn || a.Leaving {
		t.Errorf("it announces %+v, %v", a, err)
	}
	i.load(s)
	if got := len(order(t, i.drain(s, epoch))); got != 60 || !s.Drained() {
		t.Errorf("%d blocks were sent, and it has drained: %v", got, s.Drained())
	}
	if err := s.check(epoch); err != nil {
		t.Error(err)
	}
}

// Each buffer that the owner lends comes back once, whatever becomes of its block.
func TestEachBufferIsReleasedOnce(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	i := newTestImage(100<<12, 4<<10)
	s := newTestSender(1, i)
	lent := map[*byte]bool{}
	s.cfg.Release = func(b []byte) {
		if !lent[&b[0]] {
			t.Fatal("a buffer came back twice")
		}
		delete(lent, &b[0])
	}
	now := epoch
	var loads []Load
	for n := range 3000 {
		now = now.Add(time.Duration(rng.IntN(100)) * time.Microsecond)
		from := addr(byte(rng.IntN(4)))
		switch rng.IntN(8) {
		case 0, 1:
			block := uint32(rng.IntN(90))
			r := wire.Range{Block: block, Count: uint16(1 + rng.IntN(5)), Priority: wire.Priority(rng.IntN(3)), Need: uint16(rng.IntN(5))}
			s.Input(now, from, func() []byte { w := s.ask(from, rng.IntN(100)-1, r); return w.Append(nil) }())
		case 2, 3:
			loads = append(loads, s.Loads()...)
			rng.Shuffle(len(loads), func(i, j int) { loads[i], loads[j] = loads[j], loads[i] })
			for _, l := range loads[:len(loads)/2] {
				b := i.block(l.Block)
				lent[&b[0]] = true
				s.Loaded(l, b, nil)
			}
			loads = loads[len(loads)/2:]
		case 4, 5, 6:
			for range rng.IntN(5) {
				s.NextBurst(now)
			}
		case 7:
			switch rng.IntN(20) {
			case 0:
				s.SetState(1, wire.ImageWithdrawn)
				s.SetState(1, wire.ImageServed)
			case 1:
				now = now.Add(peerAge + 5*time.Second)
				s.Tick(now)
			}
		}
		if err := s.check(now); err != nil {
			t.Fatalf("step %d: %v", n, err)
		}
	}
	for len(loads) > 0 || len(s.loads) > 0 {
		loads = append(loads, s.Loads()...)
		for _, l := range loads {
			b := i.block(l.Block)
			lent[&b[0]] = true
			s.Loaded(l, b, nil)
		}
		loads = nil
		for range 1000 {
			now = now.Add(time.Millisecond)
			s.NextBurst(now)
		}
	}
	if len(lent) > 0 {
		t.Errorf("%d buffers never came back", len(lent))
	}
}

func TestAStreamThatRanDryRepeatsItsLastNumber(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	s := newTestSender(1, i)
	answer(t, s, epoch, addr(9), s.ask(addr(9), 0, whole(3)))
	i.drain(s, epoch)
	s.Tick(epoch)
	var pauses []time.Duration
	last, now := epoch, epoch
	for now.Sub(epoch) < time.Minute {
		now = s.Next(now)
		s.Tick(now)
		b := s.NextBurst(now)
		if b == nil {
			continue
		}
		var d wire.Data
		if payload, err := wire.ParseData(b.datagrams()[0], &d); err != nil || d.K != 0 || len(payload) > 0 || d.Seq != 4 {
			t.Fatalf("%+v, %v", d, err)
		}
		pauses = append(pauses, now.Sub(last))
		last = now
	}
	for n, p := range pauses {
		if n > 0 && (p < pauses[n-1] || p > tailLast) {
			t.Errorf("pauses %v", pauses)
			break
		}
	}
	if pauses[0] != tailFirst || last.Sub(epoch) < peerAge-tailLast || last.Sub(epoch) > peerAge+tailLast {
		t.Errorf("the first comes after %v, the last after %v", pauses[0], last.Sub(epoch))
	}
}

// While another image keeps the sender busy, too: else whoever misses the last symbol of this one waits for nothing.
func TestAStreamThatRanDrySaysSoWhileAnotherIsSent(t *testing.T) {
	i := newTestImage(1000<<12, 4<<10)
	s := newTestSender(1, i)
	s.Add(i.export(2))
	s.pace = newPacer(10e6)
	answer(t, s, epoch, addr(9), s.ask(addr(9), 0, whole(3)))
	w := s.ask(addr(9), 0, run(0, 900, wire.Bulk))
	w.Handle = 2
	answer(t, s, epoch, addr(9), w)
	s.Tick(epoch)
	now, tails := epoch, 0
	for now.Sub(epoch) < 200*time.Millisecond {
		i.load(s)
		if b := s.NextBurst(now); b != nil {
			for _, data := range b.datagrams() {
				var d wire.Data
				if _, err := wire.ParseData(data, &d); err != nil {
					t.Fatal(err)
				}
				if d.Handle == 1 && d.K == 0 {
					tails++
				}
			}
			continue
		}
		next := s.Next(now)
		if !next.After(now) {
			t.Fatalf("nothing to do at %v, and nothing to wait for", now.Sub(epoch))
		}
		now = next
	}
	if tails < 3 {
		t.Errorf("%d tail marks in 200 ms", tails)
	}
}

func TestAnAckTellsWhenWhatWasAskedForComes(t *testing.T) {
	i := newTestImage(1000<<12, 4<<10)
	s := newTestSender(1, i)
	s.pace = newPacer(100e6)
	bulk := answer(t, s, epoch, addr(9), s.ask(addr(9), 0, run(0, 500, wire.Bulk)))
	demand := answer(t, s, epoch, addr(9), s.ask(addr(9), 0, run(900, 1, wire.Demand)))
	if bulk.Horizon != 2000 || demand.Horizon != 4 {
		t.Errorf("horizons %d and %d, want 2000 and 4", bulk.Horizon, demand.Horizon)
	}
	i.load(s)
	if later := answer(t, s, epoch, addr(8), s.ask(addr(8), 0, run(901, 1, wire.Demand))); later.Horizon != 16 {
		t.Errorf("behind a demand and what may go out meanwhile: horizon %d, want 16", later.Horizon)
	}
	if bulk.Backlog < 150 || bulk.Backlog > 250 || demand.Backlog > 1 {
		t.Errorf("backlogs %d and %d ms", bulk.Backlog, demand.Backlog)
	}
	for _, b := range i.drain(s, epoch) {
		var d wire.Data
		if _, err := wire.ParseData(b, &d); err != nil {
			t.Fatal(err)
		}
		if d.Block == 900 && d.Seq > demand.Horizon || d.Block < 900 && d.Seq > bulk.Horizon+8 {
			t.Errorf("block %d has number %d", d.Block, d.Seq)
		}
	}
}

func TestAnnouncementsComeEachSecondAndNameEachImage(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	s := newTestSender(1, i)
	for handle := range uint16(200) {
		s.Add(i.export(handle + 2))
	}
	s.SetState(7, wire.ImageWithdrawn)
	now := epoch
	for second := range 3 {
		s.Tick(now)
		states := map[uint16]wire.ImageState{}
		for _, p := range s.Packets() {
			a, err := wire.ParseAnnounce(p.Data)
			if err != nil || p.To != testGroup || len(p.Data) > wire.MaxControlSize {
				t.Fatalf("%d bytes to %v: %v", len(p.Data), p.To, err)
			}
			for _, image := range a.Images {
				states[image.Handle] = image.State
			}
		}
		if len(states) != 201 || states[7] != wire.ImageWithdrawn || states[1] != wire.ImageServed {
			t.Errorf("second %d: %d images, 7 is in state %d", second, len(states), states[7])
		}
		now = s.Next(now)
		for now.Before(epoch.Add(time.Duration(second+1) * time.Second)) {
			s.Tick(now)
			now = s.Next(now)
		}
	}
	s.Leave()
	if a, err := wire.ParseAnnounce(s.Packets()[0].Data); err != nil || !a.Leaving {
		t.Errorf("%+v, %v", a, err)
	}
}
