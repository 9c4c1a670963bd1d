package mcast

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// path is what lies between a sender that always has work and its clients: all of them hear what passes the capacity, less random loss.
type path struct {
	p        *pacer
	now      time.Time
	rng      *rand.Rand
	capacity float64   // bits a second, 0 for no limit
	loss     []float64 // of each client
	reports  []report  // the same
}

// drive lets time pass and returns the mean rate, and the mean loss that the first client saw, in the last half of it.
func (q *path) drive(d time.Duration) (rate, loss float64) {
	end := q.now.Add(d)
	n := 0
	for q.now.Before(end) {
		// A report tells of reportSpan symbols at least.
		since := q.now
		q.now = q.now.Add(max(ratePeriod, time.Duration(reportSpan*1514*8/q.p.rate*float64(time.Second))))
		passed := 1.0
		if q.capacity > 0 {
			passed = min(1, q.capacity/q.p.rate)
		}
		symbols := int(q.p.rate * q.now.Sub(since).Seconds() / 8 / 1514)
		q.p.limited = true
		for i, l := range q.loss {
			lost := 0
			for range min(symbols, 2000) {
				if q.rng.Float64() > passed*(1-l) {
					lost++
				}
			}
			s := sample{of: &q.reports[i], symbols: max(min(symbols, 2000), 1)}
			s.loss = float64(lost) / float64(s.symbols)
			if i == 0 && 2*q.now.Sub(end) > -d {
				rate += q.p.rate
				loss += s.loss
				n++
			}
			q.p.sample(q.now, s, len(q.loss))
		}
	}
	return rate / float64(n), loss / float64(n)
}

func newPath(seed uint64, capacity float64, loss ...float64) *path {
	return &path{
		p: newPacer(0), now: epoch, rng: rand.New(rand.NewPCG(seed, 6)), capacity: capacity, loss: loss, reports: make([]report, len(loss)),
	}
}

func TestTheRateGrowsWhileNothingIsLost(t *testing.T) {
	q := newPath(1, 0, 0)
	if q.drive(time.Second); q.p.rate != maxRate {
		t.Errorf("after a second: %.3g bit/s", q.p.rate)
	}
}

func TestTheRateDoesNotGrowWhileTheSenderHasTooLittleToSend(t *testing.T) {
	p := newPacer(0)
	for i := range 100 {
		now := epoch.Add(time.Duration(i) * ratePeriod)
		p.sample(now, sample{of: &report{}, symbols: 300}, 1)
	}
	if p.rate != startRate {
		t.Errorf("%.3g bit/s", p.rate)
	}
}

func TestRandomLossDoesNotHoldTheRate(t *testing.T) {
	for _, loss := range []float64{0.01, 0.02, 0.05, 0.1, 0.2} {
		for seed := range uint64(5) {
			if rate, _ := newPath(seed, 0, loss).drive(4 * time.Second); rate < maxRate/10 {
				t.Errorf("loss %v, seed %d: %.3g bit/s", loss, seed, rate)
			}
		}
	}
}

func TestTheRateFindsACongestedPath(t *testing.T) {
	for _, c := range []struct{ capacity, loss float64 }{
		{200e6, 0}, {20e6, 0}, {2e9, 0}, {200e6, 0.01}, {200e6, 0.05}, {200e6, 0.1},
	} {
		for seed := range uint64(5) {
			rate, loss := newPath(seed, c.capacity, c.loss).drive(10 * time.Second)
			if share := rate / c.capacity; share < 0.6 || share > 1.1 || loss > c.loss+0.08 { // nothing waits on this path, so the loss is all that tells
				t.Errorf("%.0g bit/s, loss %v, seed %d: the rate is %.2f of it, loss %.3f", c.capacity, c.loss, seed, share, loss)
			}
		}
	}
}

func TestTheRateFollowsAPathThatHalvesAndRecovers(t *testing.T) {
	for seed := range uint64(5) {
		q := newPath(seed, 200e6, 0.01)
		q.drive(5 * time.Second)
		for _, capacity := range []float64{100e6, 10e6, 400e6} {
			q.capacity = capacity
			if rate, loss := q.drive(10 * time.Second); rate < 0.7*capacity || rate > 1.3*capacity || loss > 0.2 {
				t.Errorf("seed %d, at %.0g bit/s: %.3g bit/s, loss %.3f", seed, capacity, rate, loss)
			}
		}
	}
}

func TestOneBadClientDoesNotHoldTheOthers(t *testing.T) {
	q := newPath(1, 0, 0, 0, 0, 0, 0.9)
	if rate, _ := q.drive(2 * time.Second); rate < maxRate/10 {
		t.Errorf("%.3g bit/s", rate)
	}
}

// told lets clients tell of a stretch each, one after the other, and returns whether the rate made a step.
func told(p *pacer, now time.Time, samples ...sample) bool {
	before := p.steps
	for _, s := range samples {
		p.limited = true
		p.sample(now, s, len(samples))
	}
	return p.steps > before
}

func TestOfTwoClientsTheWorseCountsUnlessItIsSlow(t *testing.T) {
	for _, c := range []struct {
		name    string
		arrival float64       // of the worse one, where the other gets 1e8 bits a second
		queue   time.Duration // in its way
		lower   bool
	}{
		{"a queue at one", 0.8e8, 40 * time.Millisecond, true},
		{"no queue", 1e8, 0, false},
		{"one gets hardly half", 0.5e8, 40 * time.Millisecond, false},
	} {
		p, reports := newPacer(0), [2]report{}
		told(p, epoch.Add(ratePeriod),
			sample{of: &reports[0], symbols: 100, arrival: 1e8, delay: time.Millisecond},
			sample{of: &reports[1], symbols: 100, arrival: c.arrival, delay: c.queue + time.Millisecond, queue: c.queue})
		if lower := p.rate < startRate; lower != c.lower {
			t.Errorf("%s: the rate is %.3g bit/s", c.name, p.rate)
		}
	}
}

// Whoever has a queue in his way tells of it later than the others tell that they have none.
func TestTheRateWaitsForWhoHasAQueueInHisWay(t *testing.T) {
	p, reports := newPacer(0), [3]report{}
	now := epoch
	fast := func(i int) sample { return sample{of: &reports[i], symbols: 100} }
	if now = now.Add(ratePeriod); !told(p, now, fast(0), fast(1), fast(2)) {
		t.Fatal("no step when all have told")
	}
	now = now.Add(20 * time.Millisecond)
	p.hear(&reports[1])
	p.hear(&reports[2])
	for range 5 {
		if told(p, now, fast(0)) {
			t.Error("a step when one of three has told")
		}
		now = now.Add(ratePeriod)
	}
	if told(p, now, fast(1)) {
		t.Error("a step as soon as two of three have told")
	}
	if now = now.Add(20*time.Millisecond + 5*ratePeriod); !told(p, now, fast(0)) {
		t.Error("no step when the third has not told for as long again")
	}
	p.hear(&reports[0])
	p.hear(&reports[1])
	if now = now.Add(voteAge + 1); !told(p, now, fast(0)) {
		t.Error("no step when the others have fallen silent")
	}
}

func TestTheRateStaysWithinItsBounds(t *testing.T) {
	q := newPath(1, 1e3, 0)
	if q.drive(5 * time.Second); q.p.rate < minRate {
		t.Errorf("%.3g bit/s", q.p.rate)
	}
	fixed := newPath(1, 10e6, 0.2)
	fixed.p = newPacer(123e6)
	if fixed.drive(time.Second); fixed.p.rate != 123e6 {
		t.Errorf("the operator's rate became %.3g bit/s", fixed.p.rate)
	}
}

func TestTheBucketHoldsTheRate(t *testing.T) {
	for _, rate := range []uint64{1e6, 1e8, 1e10, 1e11} {
		p := newPacer(rate)
		now, sent := epoch, 0
		for now.Sub(epoch) < time.Second {
			ok, at := p.ready(now)
			if !ok {
				if !at.After(now) {
					t.Fatalf("%d bit/s: not ready, and nothing to wait for", rate)
				}
				now = at
				continue
			}
			p.spend(now, 1514)
			sent += 1514
		}
		if got := float64(sent) * 8; got < 0.99*float64(rate) || got > 1.01*float64(rate)+8*float64(p.burst()+1514) {
			t.Errorf("%.4g bits in a second at %d bit/s", got, rate)
		}
	}
}

func TestASenderThatComesLateMakesUpForAFewBursts(t *testing.T) {
	p := newPacer(1e9)
	p.ready(epoch)
	later := epoch.Add(time.Hour)
	sent := 0
	for {
		if ok, _ := p.ready(later); !ok {
			break
		}
		p.spend(later, 1514)
		sent += 1514
	}
	if most := catchUp*p.burst() + 1514; sent > most {
		t.Errorf("%d bytes at once after an hour, %d at most", sent, most)
	}
}

func TestLossIsReckonedFromReports(t *testing.T) {
	var r report
	now := epoch
	update := func(seen uint64, received uint32) (sample, bool) {
		now = now.Add(reportTime)
		return r.update(now, now, &wire.Want{Seen: seen, Received: received, Age: wire.AgeUnknown}, time.Time{}, 0)
	}
	if _, ok := update(1000, 900); ok {
		t.Error("one report tells of a stretch")
	}
	if _, ok := update(1000+reportSpan-1, 1000); ok {
		t.Error("a short stretch counts")
	}
	s, ok := update(2000, 1800)
	if !ok || s.symbols != 1000 || s.loss < 0.099 || s.loss > 0.101 || s.after != 1000 || s.delay != 0 || s.arrival != 0 {
		t.Errorf("%+v, %v", s, ok)
	}
	if s, ok = update(3000, 1<<31); !ok || s.loss != 0 {
		t.Errorf("more received than sent: %+v", s)
	}
	if _, ok = update(10, 10); ok || r.seen != 10 {
		t.Error("a client that began anew was not taken for one")
	}
	r = report{begun: true, received: 1<<32 - 100, at: now}
	if s, ok = update(1000, 900); !ok || s.loss != 0 {
		t.Errorf("across the wrap of received: %+v", s)
	}
	if _, ok = update(2000, 100); ok || r.received != 100 {
		t.Error("a client that joined anew was not taken for one")
	}
}

func TestDelayAndArrivalAreReckonedFromReports(t *testing.T) {
	const way = 2 * time.Millisecond // both ways, without a queue
	var r report
	clock := uint32(1<<32 - 15_000) // the client's, in microseconds: it wraps
	for i, c := range []struct {
		waits time.Duration // in the path's queue
		age   time.Duration // of the symbol when the client reports
		queue time.Duration // that must come of it
	}{
		{0, 0, 0},
		{0, 3 * time.Millisecond, 0},
		{7 * time.Millisecond, 0, 0}, // may be a pause
		{9 * time.Millisecond, time.Millisecond, 7 * time.Millisecond},
		{0, time.Millisecond, 0},
	} {
		at := epoch.Add(time.Duration(i) * 10 * time.Millisecond)
		w := wire.Want{Seen: uint64(100 * i), Received: uint32(90 * i), Time: clock + uint32(i*10_000), Age: uint32(c.age.Microseconds())}
		s, ok := r.update(at, at, &w, at.Add(-way-c.waits-c.age), 0)
		if ok != (i > 0) {
			t.Fatalf("report %d: %v", i, ok)
		}
		if ok && (s.queue != c.queue || s.delay != way+c.queue) {
			t.Errorf("report %d: queue %v, delay %v", i, s.queue, s.delay)
		}
		if i == 4 && (s.arrival < 8999 || s.arrival > 9001) {
			t.Errorf("90 symbols in 10 ms arrived at %v a second", s.arrival)
		}
	}
	// What arrives of a server that rests says nothing of what could.
	r = report{}
	for i, rested := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond} {
		at := epoch.Add(time.Duration(i) * 10 * time.Millisecond)
		s, _ := r.update(at, at, &wire.Want{Seen: uint64(100 * i), Received: uint32(100 * i), Time: uint32(i * 10_000)}, at.Add(-way), rested)
		if known := s.arrival > 0; i > 0 && known != (i == 1) {
			t.Errorf("rested for %v: %v arrived a second", rested, s.arrival)
		}
	}
	// A queue that was there before us is not taken for a long way.
	r = report{}
	for i := range 3 {
		at := epoch.Add(time.Duration(i) * 10 * time.Millisecond)
		s, _ := r.update(at, at, &wire.Want{Seen: uint64(100 * i)}, at.Add(-40*time.Millisecond), 0)
		if i > 0 && s.queue != 40*time.Millisecond-longestPath {
			t.Errorf("queue %v", s.queue)
		}
	}
}
