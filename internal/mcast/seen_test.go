package mcast

import (
	"slices"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// whole and some ask for all of a block, or for a few symbols of it.
func whole(block uint32) wire.Range { return wire.Range{Block: block, Count: 1} }

func some(block uint32, need uint16) wire.Range {
	return wire.Range{Block: block, Count: 1, Need: need}
}

func TestSeenDecidesWhetherABlockIsSentAgain(t *testing.T) {
	// Block 3 has four symbols: numbers 1 to 4.
	for _, c := range []struct {
		name     string
		seen     int // -1 for a client that has heard nothing
		inFlight uint16
		queued   uint16
		horizon  uint64
	}{
		{"it has heard nothing at all", -1, 0, 1, 8},
		{"it has joined and heard nothing yet", 0, 1, 0, 4},
		{"the block crossed the WANT", 2, 1, 0, 4},
		{"its last symbol crossed the WANT", 3, 1, 0, 4},
		{"it missed the block", 4, 0, 1, 8},
		{"it says that it heard what was never sent", 9, 0, 1, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := newTestImage(10<<12, 4<<10)
			s := newTestSender(1, i)
			answer(t, s, epoch, addr(8), s.ask(addr(8), -1, whole(3)))
			if got := symbols(t, i.drain(s, epoch)); !slices.Equal(got[3], []int{0, 1, 2, 3}) {
				t.Fatalf("the first client got %v", got)
			}
			ack := answer(t, s, epoch, addr(9), s.ask(addr(9), c.seen, whole(3)))
			if ack.InFlight != c.inFlight || ack.Queued != c.queued || ack.Horizon != c.horizon || ack.Seq != 4 {
				t.Errorf("%+v", ack)
			}
			if sent := len(i.drain(s, epoch)); sent != int(c.queued)*4 {
				t.Errorf("%d symbols were sent again", sent)
			}
		})
	}
}

func TestWhatARepairInFlightWillNotBringIsSentAtOnce(t *testing.T) {
	// Block 3 is numbers 1 to 4, its first repair, of two symbols, 5 and 6, if there is a second one that is 7.
	for _, c := range []struct {
		name    string
		repairs []uint16 // that were sent
		seen    int
		need    uint16
		want    []int // sent then
	}{
		{"it brings what is needed", []uint16{2}, 4, 2, nil},
		{"it brings less", []uint16{2}, 4, 3, []int{6}},
		{"half of it has arrived, and the client lacks two still", []uint16{2}, 5, 2, []int{6}},
		{"the block itself is on its way, too", []uint16{2}, 3, 3, nil},
		{"the whole block is needed, and will be asked for again", []uint16{2}, 4, 0, nil},
		{"two repairs are in flight", []uint16{2, 1}, 4, 3, nil},
		{"the second of two is in flight", []uint16{2, 1}, 6, 3, []int{7, 8}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := newTestImage(10<<12, 4<<10)
			s := newTestSender(1, i)
			answer(t, s, epoch, addr(8), s.ask(addr(8), -1, whole(3)))
			i.drain(s, epoch)
			for _, need := range c.repairs {
				answer(t, s, epoch, addr(8), s.ask(addr(8), int(s.exports[1].seq), some(3, need)))
				i.drain(s, epoch)
			}
			ack := answer(t, s, epoch, addr(9), s.ask(addr(9), c.seen, some(3, c.need)))
			if (ack.InFlight == 1) != (c.want == nil) || (ack.Queued == 1) != (c.want != nil) {
				t.Errorf("%+v", ack)
			}
			if got := symbols(t, i.drain(s, epoch))[3]; !slices.Equal(got, c.want) {
				t.Errorf("sent %v, want %v", got, c.want)
			}
		})
	}
}

func TestAClientThatARepairIsOnItsWayToDoesNotAddToTheNext(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	s := newTestSender(1, i)
	answer(t, s, epoch, addr(8), s.ask(addr(8), -1, whole(3)))
	i.drain(s, epoch)
	answer(t, s, epoch, addr(8), s.ask(addr(8), 4, some(3, 2)))
	i.drain(s, epoch)
	answer(t, s, epoch, addr(8), s.ask(addr(8), 6, some(3, 1)))
	answer(t, s, epoch, addr(9), s.ask(addr(9), 4, some(3, 3)))
	if got := symbols(t, i.drain(s, epoch))[3]; !slices.Equal(got, []int{6}) {
		t.Errorf("sent %v, where each lacks one beyond the two in flight", got)
	}
}

func TestRequestsForABlockThatIsQueuedAreOne(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	s := newTestSender(1, i)
	for host := range byte(20) {
		ack := answer(t, s, epoch, addr(10+host), s.ask(addr(10+host), -1, whole(3)))
		if ack.Queued != 1 {
			t.Errorf("host %d: %+v", host, ack)
		}
	}
	if got := symbols(t, i.drain(s, epoch)); len(got) != 1 || !slices.Equal(got[3], []int{0, 1, 2, 3}) {
		t.Errorf("20 clients asked for a block, sent %v", got)
	}
	if st := s.Stats(); st.Merged != 19 || st.Blocks != 1 {
		t.Errorf("%+v", st)
	}
}

func TestTheNeediestDecidesHowManySymbolsAreSent(t *testing.T) {
	for _, c := range []struct {
		name  string
		needs []uint16
		want  []int
	}{
		{"one symbol is parity that nobody has seen", []uint16{1}, []int{4}},
		{"the maximum of all", []uint16{1, 3, 2}, []int{4, 5, 6}},
		{"as many as the block has, or more: the whole block", []uint16{1, 4}, []int{0, 1, 2, 3}},
		{"someone has nothing of it", []uint16{2, 0}, []int{0, 1, 2, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := newTestImage(10<<12, 4<<10)
			s := newTestSender(1, i)
			for host, need := range c.needs {
				from := addr(byte(10 + host))
				answer(t, s, epoch, from, s.ask(from, 0, some(3, need)))
			}
			if got := symbols(t, i.drain(s, epoch)); !slices.Equal(got[3], c.want) {
				t.Errorf("sent %v, want %v", got[3], c.want)
			}
		})
	}
}

func TestEachRepairSendsSymbolsThatNobodyHasSeen(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	s := newTestSender(1, i)
	next, seen := 4, 0
	for range 252 / 3 {
		answer(t, s, epoch, addr(9), s.ask(addr(9), seen, some(3, 3)))
		got := symbols(t, i.drain(s, epoch))[3]
		if !slices.Equal(got, []int{next, next + 1, next + 2}) {
			t.Fatalf("sent %v where %d is the next that is fresh", got, next)
		}
		next += 3
		seen += 3
	}
	// The code has 256 symbols; then it starts over.
	answer(t, s, epoch, addr(9), s.ask(addr(9), seen, some(3, 2)))
	if got := symbols(t, i.drain(s, epoch))[3]; !slices.Equal(got, []int{4, 5}) {
		t.Errorf("after all %d were used: %v", fieldSize, got)
	}
}

func TestAWantForABlockThatIsBeingSentIsInFlight(t *testing.T) {
	i := newTestImage(1<<20, 256<<10)
	s := newTestSender(1, i)
	answer(t, s, epoch, addr(8), s.ask(addr(8), -1, whole(1)))
	i.load(s)
	b := s.NextBurst(epoch)
	if b == nil || s.sending == nil {
		t.Fatal("the block was to be under way")
	}
	ack := answer(t, s, epoch, addr(9), s.ask(addr(9), -1, whole(1)))
	if end := uint64(s.exports[1].layout(1).k); ack.InFlight != 1 || ack.Queued != 0 || ack.Horizon != end {
		t.Errorf("%+v where the block ends at %d", ack, end)
	}
}

func TestOldTransmissionsAreForgotten(t *testing.T) {
	i := newTestImage(1<<30, 4<<10)
	e := &export{Export: i.export(1), sent: map[uint32]sent{}}
	for n := range uint32(3 * maxSent) {
		e.seq++
		e.remember(n%(maxSent+100), sent{end: e.seq})
		if len(e.sent) > maxSent || len(e.order) > maxSent {
			t.Fatalf("after %d: %d blocks, %d transmissions", n, len(e.sent), len(e.order))
		}
	}
	if got := e.sent[(3*maxSent-1)%(maxSent+100)].end; got != e.seq {
		t.Errorf("the newest ends at %d, want %d", got, e.seq)
	}
}

// Who overheard a block asks for the rest when he comes to need it: what it lacked each time goes with it the next time.
func TestWhatABlockLackedTwiceGoesWithItUnasked(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	s := newTestSender(1, i)
	now := epoch
	for n, c := range []struct {
		ask  wire.Range
		sent int
	}{
		{whole(3), 4},
		{some(3, 1), 1},
		{whole(3), 4}, // it may have been chance
		{some(3, 1), 1},
		{whole(3), 5},
		{whole(3), 4}, // nobody asked for more: perhaps it was too much
	} {
		now = now.Add(10 * time.Second)
		answer(t, s, now, addr(8), s.ask(addr(8), int(s.exports[1].seq), c.ask))
		if sent := len(symbols(t, i.drain(s, now))[3]); sent != c.sent {
			t.Errorf("the request %d brings %d symbols, want %d", n+1, sent, c.sent)
		}
	}
}
