package sim

import (
	"slices"
	"time"
)

// readsAtOnce is how far back a read may depend on another, and how far ahead of one that waits others may begin.
const readsAtOnce = 64

// Replay is a member of a crowd that reads what a Trace says.
type Replay struct {
	*Member
	Ended   time.Time       // when all was read
	Waits   []time.Duration // how long each read took that had to wait
	Used    []time.Duration // when the read ended that needed each of the Trace's Blocks, counted from Joined
	trace   *Trace
	next    int                    // read that has not begun
	ends    [readsAtOnce]time.Time // of the last reads, zero while they go on
	begun   [readsAtOnce]time.Time
	waiting []waiting
}

// waiting is a read that needs a block.
type waiting struct {
	read  int
	block uint32
}

// Replay lets a member read what a trace says, from now on.
func (m *Member) Replay(t *Trace) *Replay {
	r := &Replay{Member: m, trace: t}
	m.OnBlock = r.got
	m.at(m.Joined, r.advance)
	return r
}

// advance begins reads until one has to wait, or is not due yet. What is here needs no event: it will still be here.
func (r *Replay) advance() {
	now := r.crowd.world.now
	for r.next < len(r.trace.Reads) {
		if len(r.waiting) > 0 && r.next-r.waiting[0].read >= readsAtOnce {
			return // it goes on when that has ended
		}
		read := &r.trace.Reads[r.next]
		begin := r.Joined
		if read.After >= 0 {
			if begin = r.ends[read.After%readsAtOnce]; begin.IsZero() {
				return // likewise
			}
		}
		begin = begin.Add(read.Think)
		if before := r.begun[(r.next+readsAtOnce-1)%readsAtOnce]; before.After(begin) {
			begin = before
		}
		lacks := slices.ContainsFunc(read.Blocks, func(b uint32) bool { return !r.Has(b) })
		if lacks && begin.After(now) {
			r.at(begin, r.advance)
			return
		}
		at := r.next % readsAtOnce
		r.begun[at], r.ends[at] = begin, begin
		r.next++
		if lacks {
			r.ends[at] = time.Time{}
			r.want(read.Blocks)
		}
		for _, b := range read.Blocks {
			if !r.Has(b) {
				r.waiting = append(r.waiting, waiting{r.next - 1, b})
			}
			r.Used = append(r.Used, begin.Sub(r.Joined))
		}
	}
	if len(r.waiting) == 0 && r.Ended.IsZero() {
		r.Ended = r.ends[(r.next-1)%readsAtOnce]
	}
}

// got ends the reads that waited for a block alone.
func (r *Replay) got(block uint32) {
	now := r.crowd.world.now
	ended := false
	for i := 0; i < len(r.waiting); i++ {
		w := r.waiting[i]
		if w.block != block {
			continue
		}
		r.waiting = slices.Delete(r.waiting, i, i+1)
		i--
		if slices.ContainsFunc(r.waiting, func(x waiting) bool { return x.read == w.read }) {
			continue
		}
		at := w.read % readsAtOnce
		r.ends[at], ended = now, true
		read := &r.trace.Reads[w.read]
		for i := range read.Blocks {
			r.Used[read.first+i] = now.Sub(r.Joined)
		}
		r.Waits = append(r.Waits, now.Sub(r.begun[at]))
	}
	if ended {
		r.advance()
	}
}
