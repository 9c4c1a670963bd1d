package client

import "sync"

const (
	// aheadMin and aheadMax bound, in bytes, how far a sequential reader is read ahead of. It doubles with each read that
	// goes on where one ended.
	aheadMin = 256 << 10
	aheadMax = window
	// aheadRuns is how many sequential readers are told apart: a few files read at once.
	aheadRuns = 16
)

// ahead finds sequential runs among the reads of a device.
type ahead struct {
	mu   sync.Mutex
	runs [aheadRuns]run
	tick uint64
}

// run is a sequential reader.
type run struct {
	next  int64  // where it will go on
	asked int64  // how far it was read ahead of
	depth int64  // how far to read ahead of it, 0 for a read that nothing followed yet
	used  uint64 // tick of the last read
}

// next takes in a read and returns the range that should be read ahead now; it is empty for a reader that jumps about.
//
// Reads of one reader may arrive out of order when it keeps several under way, so a read that begins a little before or
// after the expected place counts as going on.
func (a *ahead) next(off, n, size int64) (from, to int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tick++
	oldest := &a.runs[0]
	for i := range a.runs {
		r := &a.runs[i]
		if r.used > 0 && off <= r.next+r.depth && off+n > r.next && off+max(r.depth, n) >= r.next {
			r.used = a.tick
			r.next = max(r.next, off+n)
			r.depth = min(max(2*r.depth, aheadMin), aheadMax)
			from = max(r.asked, r.next)
			to = min(r.next+r.depth, size)
			// Ask for a good piece at a time, not for each read's own length.
			if to-from < r.depth/4 && to < size || to <= from {
				return 0, 0
			}
			r.asked = to
			return from, to
		}
		if r.used < oldest.used {
			oldest = r
		}
	}
	*oldest = run{next: off + n, asked: off + n, used: a.tick}
	return 0, 0
}
