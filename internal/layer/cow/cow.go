// Package cow is a layer that keeps what is written to a device on another one for as long as it is open, so that the first
// is only read. Package overlay has the one that keeps it longer.
package cow

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/dnbd/dnbd/block"
)

// Design
//
// The scratch device holds a block of the overlay where the base has it, so it needs no index and no allocator: a bit for each
// block says whose it is. It is as large as the base and sparse, so it takes the space of what was written. A bit once set
// stays set, and is gone with the layer: nothing is ever flushed.
//
// The scratch is any device, a sparse file as a rule. So the layer owns no files.
//
// A block of the overlay is whole. The first write to a part of a block copies the rest from the base. Until the block's bit
// is set that must not cross another write to the same block, or it would bring the base's old bytes back over it. So a change
// to blocks that are not all in the overlay claims them for as long as it lasts, and others wait; changes to blocks
// that are need no claim.

// BlockSize is the unit of the overlay in bytes: the page of most machines and the block of most file systems, so that what
// these write needs nothing from the base.
const BlockSize = 4096

// Device is a device that reads as its base does until it is written to, and has every capability.
type Device struct {
	base    block.Lower
	scratch block.Lower
	size    int64
	closed  atomic.Bool

	// mu is never held while a device works.
	mu sync.RWMutex
	// inOverlay says for each block whether the scratch has it.
	inOverlay bitmap
	// claims are the blocks that are about to come into the overlay.
	claims map[*claim]struct{}
}

// claim is a run of blocks, from first to before end, that one change has to itself until released is closed.
type claim struct {
	first, end int64
	released   chan struct{}
}

// Temporary returns a device over base that keeps what is written on scratch, of at least base's size, whatever that holds.
// When it is closed that is of no use any more; so nothing is ever flushed. Both devices belong to the layer, which
// closes them, if the error is nil.
func Temporary(base, scratch block.Device) (*Device, error) {
	if block.Has(scratch)&block.CanWrite == 0 {
		return nil, errors.New("copy on write: the scratch device cannot be written to")
	}
	if have := scratch.Size(); have < base.Size() {
		return nil, fmt.Errorf("copy on write: the scratch device is %d bytes long, and has to be %d", have, base.Size())
	}
	return &Device{
		base:      block.Lower{Device: base},
		scratch:   block.Lower{Device: scratch},
		size:      base.Size(),
		inOverlay: newBitmap(blocks(base.Size())),
		claims:    map[*claim]struct{}{},
	}, nil
}

// blocks is how many blocks size bytes have.
func blocks(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

// Size implements block.Device.
func (d *Device) Size() int64 { return d.size }

// Close implements block.Device. It does not flush.
func (d *Device) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	return errors.Join(d.base.Close(), d.scratch.Close())
}

// ReadAt implements block.Device.
func (d *Device) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.check(ctx, off, int64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 {
		overlay, n := d.run(off, int64(len(p)))
		var err error
		if overlay {
			err = d.scratch.ReadAt(ctx, p[:n], off)
		} else {
			err = d.base.ReadAt(ctx, p[:n], off)
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// WriteAt implements block.Writer.
func (d *Device) WriteAt(ctx context.Context, p []byte, off int64, _ bool) error {
	return d.change(ctx, off, int64(len(p)), func() error { return d.scratch.WriteAt(ctx, p, off, false) })
}

// WriteZeroes implements block.Zeroer. With hole the scratch's space is given back.
func (d *Device) WriteZeroes(ctx context.Context, off, n int64, hole, fast, _ bool) error {
	return d.change(ctx, off, n, func() error { return d.scratch.WriteZeroes(ctx, off, n, hole, fast, false) })
}

// Flush implements block.Flusher.
func (d *Device) Flush(ctx context.Context) error { return d.check(ctx, 0, 0) }

// Trim implements block.Trimmer. What is in the overlay gives its space back; the base's blocks have none here.
func (d *Device) Trim(ctx context.Context, off, n int64, _ bool) error {
	if err := d.check(ctx, off, n); err != nil {
		return err
	}
	for n > 0 {
		overlay, run := d.run(off, n)
		if overlay {
			if err := d.scratch.Trim(ctx, off, run, false); err != nil {
				return err
			}
		}
		off, n = off+run, n-run
	}
	return nil
}

// Prefetch implements block.Prefetcher.
func (d *Device) Prefetch(ctx context.Context, off, n int64) error {
	if err := d.check(ctx, off, n); err != nil {
		return err
	}
	for n > 0 {
		overlay, run := d.run(off, n)
		var err error
		if overlay {
			err = d.scratch.Prefetch(ctx, off, run)
		} else {
			err = d.base.Prefetch(ctx, off, run)
		}
		if err != nil {
			return err
		}
		off, n = off+run, n-run
	}
	return nil
}

// run returns whether the block at off is in the overlay, and how many of n bytes from there are in like blocks.
func (d *Device) run(off, n int64) (overlay bool, like int64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	first := off / BlockSize
	overlay = d.inOverlay.has(first)
	end := d.inOverlay.run(first, blocks(off+n))
	return overlay, min(end*BlockSize-off, n)
}

// check returns why a request fails before it is made, if it does.
func (d *Device) check(ctx context.Context, off, n int64) error {
	if d.closed.Load() {
		return fmt.Errorf("copy on write: %w", block.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("copy on write: %w", err)
	}
	return block.CheckRange(d.size, off, n)
}

// change has do change n bytes at off of the scratch, and makes all their blocks blocks of the overlay.
func (d *Device) change(ctx context.Context, off, n int64, do func() error) error {
	if err := d.check(ctx, off, n); err != nil || n == 0 {
		return err
	}
	first, end := off/BlockSize, blocks(off+n)
	c, err := d.claim(ctx, first, end)
	if err != nil {
		return err
	}
	if c == nil {
		return do()
	}
	defer d.release(c)
	if err := d.fill(ctx, off, n); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inOverlay.set(first, end)
	return nil
}

// claim waits until nobody has a claim to any of the blocks, and claims them. It returns nil if all are in the overlay.
func (d *Device) claim(ctx context.Context, first, end int64) (*claim, error) {
	for {
		other, c := d.tryClaim(first, end)
		if other == nil {
			return c, nil
		}
		select {
		case <-other.released:
		case <-ctx.Done():
			return nil, fmt.Errorf("write to block %d, which is being copied: %w", first, ctx.Err())
		}
	}
}

// tryClaim claims blocks, or returns another's claim to some of them.
func (d *Device) tryClaim(first, end int64) (other, c *claim) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inOverlay.has(first) && d.inOverlay.run(first, end) == end {
		return nil, nil
	}
	for other := range d.claims {
		if first < other.end && other.first < end {
			return other, nil
		}
	}
	c = &claim{first, end, make(chan struct{})}
	d.claims[c] = struct{}{}
	return nil, c
}

func (d *Device) release(c *claim) {
	d.mu.Lock()
	delete(d.claims, c)
	d.mu.Unlock()
	close(c.released)
}

// fill copies from the base what a change to n bytes at off leaves of its first and its last block, where they are not in the
// overlay. The caller has claimed them.
func (d *Device) fill(ctx context.Context, off, n int64) error {
	end := off + n
	head, tail := off/BlockSize, (end-1)/BlockSize
	if err := d.copyUp(ctx, head, head*BlockSize, off); err != nil {
		return err
	}
	return d.copyUp(ctx, tail, end, min((tail+1)*BlockSize, d.size))
}

// copyUp copies the bytes from from to to of a block from the base, unless it is in the overlay.
func (d *Device) copyUp(ctx context.Context, b, from, to int64) error {
	d.mu.RLock()
	has := d.inOverlay.has(b)
	d.mu.RUnlock()
	if has || from >= to {
		return nil
	}
	p := make([]byte, to-from)
	if err := d.base.ReadAt(ctx, p, from); err != nil {
		return fmt.Errorf("copy block %d of the base: %w", b, err)
	}
	return d.scratch.WriteAt(ctx, p, from, false)
}

var _ block.Full = (*Device)(nil)
