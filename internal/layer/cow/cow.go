// Package cow is a layer that keeps what is written to a device on another one, so that the first is only read.
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
// The scratch device holds a block of the overlay where the base has it, behind the header and bitmap of a kept one, so it
// needs no index and no allocator: a bit for each block says whose it is. It is as large as the base and sparse, so it
// takes the space of what was written. A bit once set stays set.
//
// The scratch is any device, a sparse file as a rule. So the layer owns no files, and its tests crash disks in memory.
//
// A block of the overlay is whole. The first write to a part of a block copies the rest from the base. Until the block's bit
// is set that must not cross another write to the same block, or it would bring the base's old bytes back over it. So a change
// to blocks that are not all in the overlay claims them for as long as it lasts, and others wait; changes to blocks
// that are need no claim.
//
// A kept overlay is written in this order: the blocks, a flush, then the bits that say that they are there, another flush. So a
// bit on stable storage never speaks of bytes that are not, and as bits are only ever set, any mixture of old and new
// bits that a torn write leaves is a true bitmap, and needs no checksum. What was not flushed reads after a crash as it was
// before, or new, in part or as a whole, as on any disk.
//
// Not done here: overlays that know by hash which base they belong to, commit to the base, rebase onto another, and grow.
// These need a log of their own and will be a package of their own.

// BlockSize is the unit of the overlay in bytes: the page of most machines and the block of most file systems, so that what
// these write needs nothing from the base.
const BlockSize = 4096

// Device is a device that reads as its base does until it is written to, and has every capability.
type Device struct {
	base    block.Lower
	scratch block.Lower
	size    int64
	// data is where in the scratch the blocks begin: 0 for a temporary overlay.
	data   int64
	closed atomic.Bool

	// mu is never held while a device works.
	mu sync.RWMutex
	// inOverlay says for each block whether the scratch has it.
	inOverlay bitmap
	// claims are the blocks that are about to come into the overlay.
	claims map[*claim]struct{}

	kept *kept // nil for a temporary overlay
}

// claim is a run of blocks, from first to before end, that one change has to itself until released is closed.
type claim struct {
	first, end int64
	released   chan struct{}
}

// Temporary returns a device over base that keeps what is written on scratch, of at least base's size, whatever that holds.
// When it is closed that is of no use any more; so nothing is ever flushed. Both devices belong to the layer, which
// closes them.
func Temporary(base, scratch block.Device) (*Device, error) {
	d := newDevice(base, scratch, 0)
	return d, d.checkScratch()
}

func newDevice(base, scratch block.Device, data int64) *Device {
	return &Device{
		base:      block.Lower{Device: base},
		scratch:   block.Lower{Device: scratch},
		size:      base.Size(),
		data:      data,
		inOverlay: newBitmap(blocks(base.Size())),
		claims:    map[*claim]struct{}{},
	}
}

// checkScratch returns an error unless the scratch can be used.
func (d *Device) checkScratch() error {
	need := block.CanWrite
	if d.kept != nil {
		need |= block.CanFlush
	}
	if block.Has(d.scratch.Device)&need != need {
		return errors.New("copy on write: the scratch device cannot be written to and flushed")
	}
	if have := d.scratch.Size(); have < d.data+d.size {
		return fmt.Errorf("copy on write: the scratch device is %d bytes long, and has to be %d", have, d.data+d.size)
	}
	return nil
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
			err = d.scratch.ReadAt(ctx, p[:n], d.data+off)
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
func (d *Device) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	fua = fua && d.kept != nil
	return d.change(ctx, off, int64(len(p)), fua, func(fua bool) error {
		return d.scratch.WriteAt(ctx, p, d.data+off, fua)
	})
}

// WriteZeroes implements block.Zeroer. With hole the scratch's space is given back.
func (d *Device) WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error {
	fua = fua && d.kept != nil
	return d.change(ctx, off, n, fua, func(fua bool) error {
		return d.scratch.WriteZeroes(ctx, d.data+off, n, hole, fast, fua)
	})
}

// Flush implements block.Flusher.
func (d *Device) Flush(ctx context.Context) error {
	if d.kept == nil {
		return d.check(ctx, 0, 0)
	}
	return d.kept.flush(ctx)
}

// Trim implements block.Trimmer. What is in the overlay gives its space back; the base's blocks have none here.
func (d *Device) Trim(ctx context.Context, off, n int64, fua bool) error {
	if err := d.check(ctx, off, n); err != nil {
		return err
	}
	fua = fua && d.kept != nil
	for n > 0 {
		overlay, run := d.run(off, n)
		if overlay {
			if err := d.scratch.Trim(ctx, d.data+off, run, fua); err != nil {
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
			err = d.scratch.Prefetch(ctx, d.data+off, run)
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

// change has do change n bytes at off of the scratch, and makes all their blocks blocks of the overlay. With fua all is on
// stable storage when it returns nil; do is told whether it has to see to that for its part.
func (d *Device) change(ctx context.Context, off, n int64, fua bool, do func(fua bool) error) error {
	if err := d.check(ctx, off, n); err != nil || n == 0 {
		return err
	}
	first, end := off/BlockSize, blocks(off+n)
	c, err := d.claim(ctx, first, end)
	if err != nil {
		return err
	}
	if c != nil {
		defer d.release(c)
		if err := d.fill(ctx, off, n); err != nil {
			return err
		}
	}
	// Where the bits are kept already, only these bytes have to be forced.
	force := fua && d.kept.has(first, end)
	if err := do(force); err != nil {
		return err
	}
	if c != nil {
		d.join(first, end)
	}
	if fua && !force {
		return d.kept.flush(ctx)
	}
	return nil
}

// join makes blocks part of the overlay.
func (d *Device) join(first, end int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inOverlay.set(first, end)
	if d.kept != nil {
		d.kept.noteLocked(first, end)
	}
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
	return d.scratch.WriteAt(ctx, p, d.data+from, false)
}

var _ block.Full = (*Device)(nil)
