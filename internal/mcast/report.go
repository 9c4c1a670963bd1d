package mcast

import (
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

const (
	// reportSpan is the least number of symbols, and reportTime the least time, that a sample is made of.
	reportSpan = 32
	reportTime = 5 * time.Millisecond
	// floorTime is for how long the least delay counts, at least; at most twice as long. It is long because a queue that another
	// keeps standing would become the least in time.
	floorTime = time.Minute
	// longestPath is how much of the delay may be the path's own. Multicast stays on the local network; more means that the queue was
	// there before we were.
	longestPath = 5 * time.Millisecond
	// mostRest is the part of a stretch's time in which the server may have had nothing to send for what arrived to say what can.
	mostRest = 0.1
)

// report is what one client told of one stream.
type report struct {
	begun    bool
	seen     uint64
	received uint32
	arrived  uint32        // when number seen did, by the client's clock in microseconds
	timed    bool          // arrived means something
	rested   time.Duration // for how long the server had had nothing to send by then
	at       time.Time
	delay    time.Duration // at that time; 0 if it is not known
	floor    floor
	lag      lag
	heard    int // step of the rate that it is counted for
}

// sample is what a client's report says of a stretch of a stream.
type sample struct {
	of      *report
	after   uint64 // number of the symbol before its first
	symbols int
	loss    float64
	arrival float64       // symbols a second that arrived, 0 if it is not known or the server had nothing to send meanwhile
	delay   time.Duration // from when its last symbol was sent until we heard that it arrived, 0 if it is not known
	queue   time.Duration // by how much that is more than the least of late, and more than a local network's
	wait    time.Duration // by how much it is more than the least
}

// update takes a client's report in, which arrived before now. The symbol with the number that it has seen was sent at a time, zero if that is not known. It
// returns what the report says of the stretch since the last one, if that is long enough to say something. Rested is for how long the
// server has had nothing to send so far.
func (r *report) update(now, arrived time.Time, w *wire.Want, sent time.Time, rested time.Duration) (sample, bool) {
	timed := w.Age != wire.AgeUnknown
	seenAt := w.Time - w.Age
	delay := time.Duration(0)
	if timed && !sent.IsZero() {
		delay = max(arrived.Sub(sent)-time.Duration(w.Age)*time.Microsecond, 1)
		r.floor.note(now, delay)
	}
	note := func() {
		r.seen, r.received, r.at = w.Seen, w.Received, now
		r.arrived, r.timed, r.delay, r.rested = seenAt, timed, delay, rested
	}
	if !r.begun || w.Seen < r.seen || w.Seen-r.seen > 1<<24 || int32(w.Received-r.received) < 0 {
		r.begun = true
		note()
		return sample{}, false
	}
	s := sample{of: r, after: r.seen, symbols: int(w.Seen - r.seen)}
	if s.symbols < reportSpan || now.Sub(r.at) < reportTime {
		return sample{}, false
	}
	got := min(int(w.Received-r.received), s.symbols)
	s.loss = 1 - float64(got)/float64(s.symbols)

	if us := int32(seenAt - r.arrived); timed && r.timed && us > 0 && (rested-r.rested).Seconds() <= mostRest*now.Sub(r.at).Seconds() {
		s.arrival = float64(got) / (float64(us) / 1e6)
	}
	if delay > 0 && r.delay > 0 {
		// The lesser of two: a pause of its process is no queue.
		s.delay = min(delay, r.delay)
		s.wait = s.delay - r.floor.least()
		s.queue = s.delay - min(r.floor.least(), longestPath)
	}
	note()
	return s, true
}

// floor is the least of the delays of late.
type floor struct {
	now, before time.Duration // in this period and in the one before it; 0 for none
	began       time.Time
}

func (f *floor) note(now time.Time, d time.Duration) {
	if now.Sub(f.began) >= floorTime {
		f.before, f.now, f.began = f.now, d, now
	}
	f.now = min(f.now, d)
}

func (f *floor) least() time.Duration {
	if f.before == 0 {
		return f.now
	}
	return min(f.now, f.before)
}
