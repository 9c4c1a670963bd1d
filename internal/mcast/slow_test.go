package mcast

import (
	"slices"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// audience is a server that sends a stream, and clients that report what they lose of it.
type audience struct {
	s        *Sender
	now      time.Time
	received []float64
}

// report lets a time pass in which 10,000 symbols a second are sent, with a report of each client every 20 ms, and returns which clients
// are told that they are slow in the end.
func (c *audience) report(t *testing.T, d time.Duration, loss ...float64) (slow []int) {
	t.Helper()
	if c.received == nil {
		c.received = make([]float64, len(loss))
	}
	const each = 200
	for end := c.now.Add(d); c.now.Before(end); {
		c.now = c.now.Add(20 * time.Millisecond)
		c.s.exports[1].seq += each
		slow = nil
		for i, l := range loss {
			from := addr(byte(10 + i))
			c.received[i] += each * (1 - l)
			w := c.s.ask(from, int(c.s.exports[1].seq))
			w.Received = uint32(c.received[i])
			if answer(t, c.s, c.now, from, w).Slow {
				slow = append(slow, i)
			}
		}
	}
	return slow
}

func newAudience() *audience {
	return &audience{s: newTestSender(1, newTestImage(100<<12, 4<<10)), now: epoch}
}

func TestAClientIsToldThatItIsSlowWhenMostOthersAreNot(t *testing.T) {
	for _, c := range []struct {
		name string
		loss []float64
		want []int
	}{
		{"one of four", []float64{0, 0.95, 0, 0}, []int{1}},
		{"one of two", []float64{0.95, 0}, []int{0}},
		{"three of seven", []float64{0.9, 0, 0.9, 0, 0.9, 0, 0}, []int{0, 2, 4}},
		{"three of five: that is for the rate to see to", []float64{0.9, 0, 0.9, 0, 0.9}, nil},
		{"who is alone", []float64{0.95}, nil},
		{"a bad medium", []float64{0.3, 0, 0, 0}, nil},
		{"a medium that is bad for all", []float64{0.6, 0.3, 0.3, 0.3}, nil},
	} {
		if got := newAudience().report(t, 2*time.Second, c.loss...); !slices.Equal(got, c.want) {
			t.Errorf("%s: %d are told, want %d", c.name, got, c.want)
		}
	}
}

func TestAClientIsToldThatItsPortIsFullWhenThoseOfMostOthersAreNot(t *testing.T) {
	for _, c := range []struct {
		name   string
		loss   float64
		queue  time.Duration
		median course
		few    bool // of whom this is so
		rests  bool // the server
		want   bool
	}{
		{"a long queue, and a few losses", 0.001, 40 * time.Millisecond, course{true, 0, 8 * time.Millisecond}, true, false, true},
		{"many have it", 0.001, 40 * time.Millisecond, course{true, 0, 8 * time.Millisecond}, false, false, false},
		{"the median has it, too", 0.01, 40 * time.Millisecond, course{true, 0.01, 40 * time.Millisecond}, true, false, false},
		{"a short queue, and losses", 0.05, 4 * time.Millisecond, course{true, 0.01, 4 * time.Millisecond}, true, false, true},
		{"a short queue", 0.01, 4 * time.Millisecond, course{true, 0.01, 0}, true, false, false},
		{"a bad medium", 0.3, 0, course{true, 0, 0}, true, false, false},
		{"nothing is known of the median", 0.05, 40 * time.Millisecond, course{}, true, false, false},
		{"the server rests", 0.001, 40 * time.Millisecond, course{true, 0, 8 * time.Millisecond}, true, true, false},
	} {
		var l lag
		s := sample{symbols: 100, loss: c.loss, delay: c.queue + 1, wait: c.queue}
		if !c.rests {
			s.arrival = 1e8
		}
		for at := time.Duration(0); at <= 2*slowTime; at += 20 * time.Millisecond {
			l.note(epoch.Add(at), s, &c.median, func() census { return census{fine: true, few: c.few} })
			if at < slowTime && l.crowded.on {
				t.Fatalf("%s: told after %v", c.name, at)
			}
		}
		if l.crowded.on != c.want || l.slow.on {
			t.Errorf("%s: told that it is %v, want %v; slow %v", c.name, l.crowded.on, c.want, l.slow.on)
		}
	}
}

func TestAShortTroubleDoesNotMakeAClientSlow(t *testing.T) {
	c := newAudience()
	c.report(t, time.Second, 0, 0, 0)
	for range 10 {
		if got := c.report(t, slowTime-100*time.Millisecond, 1, 0, 0); len(got) > 0 {
			t.Fatalf("%d are told", got)
		}
		c.report(t, 200*time.Millisecond, 0, 0, 0)
	}
}

func TestASlowClientIsJudgedAnewWhenItHasLeftOrKeepsUp(t *testing.T) {
	c := newAudience()
	if got := c.report(t, 2*time.Second, 0.9, 0, 0); !slices.Equal(got, []int{0}) {
		t.Fatalf("%d are told", got)
	}
	if n := c.s.Stats().Slow; n != 1 {
		t.Errorf("%d clients are slow", n)
	}
	if got := c.report(t, time.Second, 0.35, 0, 0); !slices.Equal(got, []int{0}) {
		t.Errorf("%d are told when one is still not well", got)
	}
	if got := c.report(t, time.Second, 0, 0, 0); len(got) > 0 {
		t.Errorf("%d are told when all keep up", got)
	}
	c.report(t, 2*time.Second, 0.9, 0, 0)
	if answer(t, c.s, c.now, addr(10), c.s.ask(addr(10), -1)).Slow {
		t.Error("told when it has left the stream")
	}
	// What went by while it was away is not lost.
	c.s.exports[1].seq += 1_000_000
	if got := c.report(t, 2*time.Second, 0, 0, 0); len(got) > 0 {
		t.Errorf("%d are told after coming back", got)
	}
}

// The rate is for those who keep up.
func TestWhoIsSlowHasNoSayInTheRate(t *testing.T) {
	c := newAudience()
	c.s.pace = newPacer(0)
	c.report(t, 2*time.Second, 0.9, 0, 0)
	c.s.pace.law.samples = nil
	n := 0
	for range 10 {
		c.report(t, 20*time.Millisecond, 0.9, 0, 0)
		for _, s := range c.s.pace.law.samples {
			if s.loss > 0.5 {
				n++
			}
		}
	}
	if n > 0 {
		t.Errorf("%d reports of a slow client count", n)
	}
}

// askForEver lets a client ask for a block each millisecond, and returns how many symbols are sent in a time.
func askForEver(t *testing.T, d time.Duration, tell func(w *wire.Want, seq uint64, round int)) int {
	i := newTestImage(1000<<16, 64<<10)
	s := newTestSender(1, i)
	sent := 0
	for round := range int(d / time.Millisecond) {
		now := epoch.Add(time.Duration(round) * time.Millisecond)
		w := s.ask(addr(9), -1, run(3, 1, wire.Demand))
		tell(&w, s.exports[1].seq, round)
		s.Input(now, addr(9), w.Append(nil))
		s.Packets()
		for _, indexes := range symbols(t, i.drain(s, now)) {
			sent += len(indexes)
		}
	}
	return sent
}

func TestARepeatedRequestIsGrantedInProportionToWhatArrives(t *testing.T) {
	const seconds = 60
	k := newTestSender(1, newTestImage(64<<10, 64<<10)).exports[1].layout(0).k
	for _, c := range []struct {
		name string
		tell func(w *wire.Want, seq uint64, round int)
		most int // symbols
	}{
		{"nothing was ever heard", func(*wire.Want, uint64, int) {}, k + firstRation + sparePurse + (seconds+12)*rationSecond},
		{"all is lost", func(w *wire.Want, seq uint64, _ int) { w.Joined, w.Seen = true, seq }, 3 * (k + firstRation + sparePurse + (seconds+12)*rationSecond) / 2}, // with parity
		{"all is heard", func(w *wire.Want, seq uint64, _ int) {
			w.Joined, w.Seen, w.Received = true, seq, uint32(seq)
		}, 13*(againMost+1)*k + sparePurse + (seconds+12)*rationSecond*5/4},
		{"more is heard than was sent", func(w *wire.Want, seq uint64, round int) {
			w.Joined, w.Seen, w.Received = true, seq, uint32(round*1_000_000)
		}, 13*(againMost+1)*k + sparePurse + (seconds+12)*rationSecond*5/4},
		{"a forged number led it astray", func(w *wire.Want, seq uint64, _ int) {
			w.Joined, w.Seen, w.Received = true, seq+500, uint32(seq)
		}, k + firstRation + sparePurse + (seconds+12)*rationSecond},
		{"other blocks, and none is heard", func(w *wire.Want, _ uint64, round int) {
			w.Ranges[0].Block = uint32(round % 20)
		}, 20*k + firstRation + sparePurse + (seconds+12)*rationSecond},
	} {
		if n := askForEver(t, seconds*time.Second, c.tell); n > c.most || n < c.most/4 {
			t.Errorf("%s: %d symbols are sent, %d at most", c.name, n, c.most)
		}
	}
}

// Whoever comes when all has been sent to others gets it all, soon.
func TestALateClientGetsWhatWasSentBefore(t *testing.T) {
	i := newTestImage(1000<<12, 4<<10)
	s := newTestSender(1, i)
	e := s.exports[1]
	now := epoch
	early, late := addr(8), addr(9)
	answer(t, s, now, early, s.ask(early, -1, run(0, 1000, wire.Bulk)))
	i.drain(s, now)
	joined := int(e.seq)
	rounds, lacking := 0, 1000
	for ; lacking > 0; rounds++ {
		if rounds == 10 {
			t.Fatalf("%d blocks are lacking after %d rounds", lacking, rounds)
		}
		now = now.Add(5 * time.Millisecond)
		w := s.ask(late, -1, run(uint32(1000-lacking), uint16(lacking), wire.ReadAhead))
		if rounds > 0 {
			w.Joined, w.Seen, w.Received = true, e.seq, uint32(int(e.seq)-joined)
		}
		lacking -= int(answer(t, s, now, late, w).Queued)
		i.drain(s, now)
	}
	t.Logf("%d rounds", rounds)
}

// tooFast lets a Receiver be told that it is slow.
func tooFast(r *Receiver, s *Sender, now time.Time) {
	r.Want(now, 3, wire.Demand)
	r.Step(now)
	for _, p := range r.Packets() {
		var w wire.Want
		if wire.ParseWant(p.Data, &w) == nil {
			a := wire.Ack{Server: s.cfg.Server, Handle: 1, Epoch: s.cfg.Epoch, Time: w.Time, Queued: 1, Slow: true}
			r.Input(now, addr(1), a.Append(nil))
		}
	}
}

func TestAReceiverThatLeavesAsksForNothingAndComesBackLaterEachTime(t *testing.T) {
	r, s, now := newTestPair(t, 1000)
	r.WantBulk(now, 500)
	for _, pause := range []time.Duration{slowMin, 2 * slowMin, 4 * slowMin} {
		if tooFast(r, s, now); !r.Slow() {
			t.Fatal("it does not know that it is slow")
		}
		r.Leave(true)
		r.Want(now, 4, wire.Demand)
		if n := converse(r, s, &now, pause-100*time.Millisecond); n > 0 {
			t.Errorf("it asked for %d blocks while it was away", n)
		}
		if got := r.Lacking(10, func(uint32) bool { return true }); !slices.Equal(got, []uint32{3, 4, 500}) {
			t.Errorf("it lacks %d", got)
		}
		if !r.Slow() {
			t.Errorf("it comes back before %v", pause)
		}
		if converse(r, s, &now, 200*time.Millisecond); r.Slow() {
			t.Errorf("it is away for more than %v", pause)
		}
		r.Leave(false)
		if n := converse(r, s, &now, 100*time.Millisecond); n < 3 {
			t.Errorf("it asked for %d blocks when it had come back", n)
		}
		if err := r.check(now); err != nil {
			t.Error(err)
		}
		r.Cancel(3)
	}
}

func TestAReceiverThatCannotLeaveGoesOn(t *testing.T) {
	r, s, now := newTestPair(t, 1000)
	tooFast(r, s, now)
	r.Want(now, 4, wire.Demand)
	if n := converse(r, s, &now, 100*time.Millisecond); n == 0 {
		t.Error("it asks for nothing")
	}
	if r.Slow() {
		t.Error("it thinks that it is slow when the server does not say so any more")
	}
}
