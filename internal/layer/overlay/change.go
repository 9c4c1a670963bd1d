package overlay

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// claim is a run of blocks, from first to before end, whose states one change has to itself until released is closed.
type claim struct {
	first, end int64
	released   chan struct{}
}

// span is a range of bytes of the device, and the blocks that hold them.
type span struct {
	off, n     int64
	first, end int64 // blocks
}

func newSpan(off, n int64) span { return span{off, n, off / BlockSize, blocks(off + n)} }

// WriteAt implements block.Writer.
func (d *Device) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	s := newSpan(off, int64(len(p)))
	return d.change(ctx, s, isData, fua, func(claimed, fua bool) error {
		if claimed {
			return d.writeNew(ctx, p, s)
		}
		return d.scratch.WriteAt(ctx, p, d.at(off), fua)
	})
}

// WriteZeroes implements block.Zeroer. With hole whole blocks give their space back, and take none from then on.
func (d *Device) WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error {
	if err := d.check(ctx, off, n); err != nil || n == 0 {
		return err
	}
	whole, ragged := d.split(off, n)
	if !hole {
		whole, ragged = span{}, []span{newSpan(off, n)}
	}
	if fast && len(ragged) > 0 {
		return fmt.Errorf("write zeroes fast to parts of blocks, or where they keep their space: %w", errors.ErrUnsupported)
	}
	if whole.n > 0 {
		if err := d.drop(ctx, whole); err != nil {
			return err
		}
	}
	for _, s := range ragged {
		// Space is kept by being written to.
		p := make([]byte, min(s.n, zeroPiece))
		for end := s.off + s.n; s.off < end; s.off += zeroPiece {
			if err := d.WriteAt(ctx, p[:min(zeroPiece, end-s.off)], s.off, false); err != nil {
				return err
			}
		}
	}
	if fua {
		return d.Flush(ctx)
	}
	return nil
}

// zeroPiece is how many zero bytes are written at a time.
const zeroPiece = 256 << 10

// Trim implements block.Trimmer. Whole blocks read as zero from then on, the base's too: who comes to read them again need
// not wait for what nobody wants, and a new image made of both leaves them out.
func (d *Device) Trim(ctx context.Context, off, n int64, fua bool) error {
	if err := d.check(ctx, off, n); err != nil {
		return err
	}
	whole, _ := d.split(off, n)
	for off, end := whole.off, whole.off+whole.n; off < end; {
		// One page of the map after the other: that there is no room for one is no reason not to give another's blocks back.
		next := min((off/BlockSize/pageBlocks+1)*pageBlocks*BlockSize, end)
		if err := d.drop(ctx, newSpan(off, next-off)); err != nil && !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		off = next
	}
	if fua {
		return d.Flush(ctx)
	}
	return nil
}

// Flush implements block.Flusher.
func (d *Device) Flush(ctx context.Context) error {
	d.changes.RLock()
	defer d.changes.RUnlock()
	if err := d.check(ctx, 0, 0); err != nil {
		return err
	}
	return d.flusher.flush(ctx)
}

// split returns the whole blocks within n bytes at off, and what is left of the range. The device's last block is whole where
// the device ends.
func (d *Device) split(off, n int64) (whole span, ragged []span) {
	from, to := blocks(off)*BlockSize, off+n
	if to != d.size {
		to = to / BlockSize * BlockSize
	}
	if from >= to {
		if n > 0 {
			ragged = append(ragged, newSpan(off, n))
		}
		return span{}, ragged
	}
	if off < from {
		ragged = append(ragged, newSpan(off, from-off))
	}
	if to < off+n {
		ragged = append(ragged, newSpan(to, off+n-to))
	}
	return newSpan(from, to-from), ragged
}

// drop makes whole blocks zero and gives their space back.
func (d *Device) drop(ctx context.Context, s span) error {
	return d.change(ctx, s, isZero, false, func(claimed, _ bool) error {
		if !claimed {
			return nil // they are zero
		}
		// The last one is whole in the file.
		return d.scratch.Trim(ctx, d.at(s.off), (s.end-s.first)*BlockSize, false)
	})
}

// change has do change a span, and gives all its blocks the state to. do is told whether it has claimed them, since not all
// have that state yet, and whether its part has to be on stable storage when it returns. With fua all is when change
// returns nil.
func (d *Device) change(ctx context.Context, s span, to state, fua bool, do func(claimed, fua bool) error) error {
	d.changes.RLock()
	defer d.changes.RUnlock()
	if err := d.check(ctx, s.off, s.n); err != nil || s.n == 0 {
		return err
	}
	c, stable, err := d.claim(ctx, s, to)
	if err != nil {
		return err
	}
	if c == nil {
		// Where the states are kept already, only these bytes have to be forced.
		if err := do(false, fua && stable); err != nil || !fua || stable {
			return err
		}
		return d.flusher.flush(ctx)
	}
	defer d.release(c)
	if err := d.reserve(ctx, s); err != nil {
		return err
	}
	if err := do(true, false); err != nil {
		return err
	}
	if err := d.join(ctx, s, to); err != nil || !fua {
		return err
	}
	return d.flusher.flush(ctx)
}

// claim waits until nobody has a claim to any of a span's blocks, and claims them. It returns nil if all have the state to,
// and then whether that is on stable storage.
func (d *Device) claim(ctx context.Context, s span, to state) (c *claim, stable bool, err error) {
	for {
		other, c, stable := d.tryClaim(s, to)
		if other == nil {
			return c, stable, nil
		}
		select {
		case <-other.released:
		case <-ctx.Done():
			return nil, false, fmt.Errorf("change block %d, which is being changed: %w", s.first, ctx.Err())
		}
	}
}

// tryClaim claims blocks, or returns another's claim to some of them.
func (d *Device) tryClaim(s span, to state) (other, c *claim, stable bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.states.get(s.first) == to && d.states.run(s.first, s.end) == s.end {
		return nil, nil, d.flusher.hasLocked(s.first, s.end)
	}
	for other := range d.claims {
		if s.first < other.end && other.first < s.end {
			return other, nil, false
		}
	}
	c = &claim{s.first, s.end, make(chan struct{})}
	d.claims[c] = struct{}{}
	return nil, c, false
}

func (d *Device) release(c *claim) {
	d.mu.Lock()
	delete(d.claims, c)
	d.mu.Unlock()
	close(c.released)
}

// reserve sees to it that the pages of a span's blocks have their space.
func (d *Device) reserve(ctx context.Context, s span) error {
	for p := s.first / pageBlocks; p*pageBlocks < s.end; p++ {
		if d.isReserved(p) {
			continue
		}
		if err := d.reservePage(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (d *Device) isReserved(p int64) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.pages[p].reserved
}

// reservePage writes zeroes over a page that was never written.
func (d *Device) reservePage(ctx context.Context, p int64) error {
	d.reserving.Lock()
	defer d.reserving.Unlock()
	if d.isReserved(p) {
		return nil // somebody was faster
	}
	if err := d.scratch.WriteAt(ctx, make([]byte, groupSize), pageOffset(p, 0), false); err != nil {
		return fmt.Errorf("make room for the overlay's map: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pages[p].reserved = true
	return nil
}

// join gives the blocks of a span, which the caller has claimed, a state. The live map comes first: whoever sees the new state
// may answer a write to these blocks that changes no state.
func (d *Device) join(ctx context.Context, s span, to state) error {
	d.live.Lock()
	defer d.live.Unlock()
	for first := s.first; first < s.end; {
		p := first / pageBlocks
		end := min(s.end, (p+1)*pageBlocks)
		b, at := d.states.with(first, end, to)
		if err := d.scratch.WriteAt(ctx, b, pageOffset(p, livePlace)+pageStates+at, false); err != nil {
			return fmt.Errorf("write the overlay's live map: %w", err)
		}
		first = end
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.states.set(s.first, s.end, to)
	for p := s.first / pageBlocks; p*pageBlocks < s.end; p++ {
		d.changed[p] = struct{}{}
	}
	return nil
}

// writeNew writes p to a span that the caller has claimed, of which not all blocks are the overlay's yet. These are written
// whole.
func (d *Device) writeNew(ctx context.Context, p []byte, s span) error {
	whole, ragged := d.split(s.off, s.n)
	if whole.n > 0 {
		if err := d.scratch.WriteAt(ctx, p[whole.off-s.off:][:whole.n], d.at(whole.off), false); err != nil {
			return err
		}
	}
	for _, r := range ragged {
		for b := r.first; b < r.end; b++ {
			from, to := max(r.off, b*BlockSize), min(r.off+r.n, (b+1)*BlockSize)
			if err := d.writePart(ctx, p[from-s.off:to-s.off], from); err != nil {
				return err
			}
		}
	}
	return nil
}

// writePart writes p, a part of one block, together with what else the block holds where it is not the overlay's yet.
func (d *Device) writePart(ctx context.Context, p []byte, off int64) error {
	start := off / BlockSize * BlockSize
	state, n := d.run(start, min(BlockSize, d.size-start))
	if state == isData {
		return d.scratch.WriteAt(ctx, p, d.at(off), false)
	}
	b := make([]byte, n)
	if state == isBase {
		if err := d.base.ReadAt(ctx, b, start); err != nil {
			return fmt.Errorf("copy block %d of the base: %w", start/BlockSize, err)
		}
	}
	copy(b[off-start:], p)
	return d.scratch.WriteAt(ctx, b, d.at(start), false)
}
