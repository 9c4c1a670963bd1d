package overlay

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"
)

// flusher puts what was written, and the map of it, on stable storage, in rounds one after the other.
type flusher struct {
	d *Device

	// mu guards the round that has not begun, and the one that has begun last.
	mu         sync.Mutex
	next, last *round

	// These belong to the round under way.
	header header // the one that counts, but for what is to be written with the next one
	place  int    // of the one that counts
	seq    uint64 // the highest sequence number that was ever written

	// unwritten has the pages that changed and may not be on stable storage yet. Guarded by d.mu.
	unwritten map[int64]struct{}
}

// round is a flush that several wait for.
type round struct {
	after *round // it begins when this one has ended; nil if none was before it
	done  chan struct{}
	err   error // read it after done
}

// flush returns when all that was answered before it was called is on stable storage. Those who call it while another one
// is under way share the next one.
func (f *flusher) flush(ctx context.Context) error {
	f.mu.Lock()
	r, mine := f.next, f.next == nil
	if mine {
		r = &round{after: f.last, done: make(chan struct{})}
		f.next = r
	}
	f.mu.Unlock()
	if !mine {
		select {
		case <-r.done:
			return r.err
		case <-ctx.Done():
			return fmt.Errorf("flush the overlay: %w", ctx.Err())
		}
	}
	if r.after != nil {
		<-r.after.done
	}
	f.mu.Lock()
	r.after, f.next, f.last = nil, nil, r
	f.mu.Unlock()
	// Others wait for it too.
	r.err = f.commit(context.WithoutCancel(ctx), false)
	close(r.done)
	return r.err
}

// commit makes a flush. With always it writes a header even if no state has changed. There is one at a time.
func (f *flusher) commit(ctx context.Context, always bool) error {
	// What is in the overlay now will be on stable storage after the flush; what comes meanwhile may not.
	now := f.takeChanged()
	if err := f.d.scratch.Flush(ctx); err != nil {
		return err
	}
	if len(now) == 0 && !always {
		return nil
	}
	next := f.header
	f.seq++
	next.seq, next.written = f.seq, time.Now()
	sums := make(map[int64]uint64, len(now))
	for p, states := range now {
		b, sum := encodePage(next.file, p, f.seq, states)
		if err := f.d.scratch.WriteAt(ctx, b, pageOffset(p, f.d.pages[p].other()), false); err != nil {
			return fmt.Errorf("write the overlay's map: %w", err)
		}
		if f.d.pages[p].active >= 0 {
			next.sum -= f.d.pages[p].sum
		}
		next.sum += sum
		sums[p] = sum
	}
	place := 1 - f.place
	if err := f.d.scratch.WriteAt(ctx, next.encode(), int64(place)*headerSize, false); err != nil {
		return fmt.Errorf("write the overlay's header: %w", err)
	}
	if err := f.d.scratch.Flush(ctx); err != nil {
		return err
	}
	for p, sum := range sums {
		f.d.pages[p].active, f.d.pages[p].sum = f.d.pages[p].other(), sum
	}
	f.header, f.place = next, place
	f.d.mu.Lock()
	clear(f.unwritten)
	f.d.mu.Unlock()
	return nil
}

// finish makes a last flush, and notes in both headers that the file was closed as it should. No round may be under way.
func (f *flusher) finish(ctx context.Context) error {
	f.header.open, f.header.boot = false, [bootSize]byte{}
	for range headers {
		if err := f.commit(ctx, true); err != nil {
			return fmt.Errorf("close the overlay: %w", err)
		}
	}
	return nil
}

// takeChanged returns the states of the pages that have to be written, as they are now.
func (f *flusher) takeChanged() map[int64][]byte {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	maps.Copy(f.unwritten, f.d.changed)
	clear(f.d.changed)
	now := make(map[int64][]byte, len(f.unwritten))
	for p := range f.unwritten {
		now[p] = f.d.states.encode(p)
	}
	return now
}

// hasLocked says whether the states of blocks are on stable storage. The caller holds d.mu.
func (f *flusher) hasLocked(first, end int64) bool {
	for p := first / pageBlocks; p*pageBlocks < end; p++ {
		if _, changed := f.d.changed[p]; changed {
			return false
		}
		if _, unwritten := f.unwritten[p]; unwritten {
			return false
		}
	}
	return true
}

// other is the place of a page that does not count.
func (p *page) other() int {
	if p.active == 0 {
		return 1
	}
	return 0
}
