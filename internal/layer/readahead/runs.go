package readahead

import "sync"

const (
	// minDepth is how far, in bytes, is read ahead of a run that was just found. It doubles with each read that goes on.
	minDepth = 256 << 10
	// maxRuns is how many sequential readers are told apart: a few files read at once.
	maxRuns = 16
)

// Runs finds sequential runs among the reads of a device. Its methods may be called from many goroutines at once.
type Runs struct {
	max int64

	mu    sync.Mutex
	runs  [maxRuns]run
	reads uint64
}

// run is a sequential reader.
type run struct {
	next  int64  // where it will read next
	asked int64  // up to where it was read ahead of
	depth int64  // how far to read ahead of it; 0 after one read, which is no run yet
	used  uint64 // number of the last read, from 1; 0 for none
}

// NewRuns returns Runs that read at most depth bytes ahead.
func NewRuns(depth int64) *Runs { return &Runs{max: depth} }

// Read takes in a read of n bytes at off of a device of size bytes. It returns what should be read ahead now, from from to
// before to, which is nothing for a reader that jumps about.
//
// A reader that keeps several reads under way may have them arrive out of order. So a read near where the run goes on belongs
// to it, and one that arrives late moves nothing.
func (r *Runs) Read(off, n, size int64) (from, to int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	oldest := &r.runs[0]
	for i := range r.runs {
		c := &r.runs[i]
		if near := max(c.depth, n); c.used > 0 && off+n >= c.next-near && off <= c.next+near {
			c.used = r.reads
			return c.advance(off+n, size, r.max)
		}
		if c.used < oldest.used {
			oldest = c
		}
	}
	*oldest = run{next: off + n, asked: off + n, used: r.reads}
	return 0, 0
}

// advance notes that a run was read up to next, and returns what should be read ahead.
func (c *run) advance(next, size, deepest int64) (from, to int64) {
	if next <= c.next {
		return 0, 0
	}
	c.next = next
	c.depth = min(max(2*c.depth, minDepth), deepest)
	from, to = max(c.asked, c.next), min(c.next+c.depth, size)
	// A good piece at a time, rather than as much as each read moves on.
	if to <= from || to < size && to-from < c.depth/4 {
		return 0, 0
	}
	c.asked = to
	return from, to
}
