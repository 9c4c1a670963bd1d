package blocktest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/dnbd/dnbd/block"
)

// pageSize is the unit, in bytes, in which a Disk has space and loses what was not flushed: a disk's sector.
const pageSize = 512

// Disk is a device in memory with every capability, all zero at first, and sparse. Like a real disk it has a cache that is
// lost with the power: see Crash.
type Disk struct {
	size int64

	mu     sync.RWMutex
	closed bool
	// now has the pages as they read, kept as they are on stable storage; a page that is missing reads as zero. Pages of kept
	// are never changed in place, since now may have them too: dirty has those of now that are its own.
	now, kept map[int64][]byte
	dirty     map[int64]bool
}

// NewDisk returns a disk of size bytes.
func NewDisk(size int64) *Disk {
	return &Disk{size: size, now: map[int64][]byte{}, kept: map[int64][]byte{}, dirty: map[int64]bool{}}
}

// Crash loses what was not flushed, but for the sectors that survive says true of: a disk may write what it likes before it
// is told to. The disk is ready to be used again, also if it was closed. A nil survives loses all.
func (d *Disk) Crash(survives func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, page := range slices.Sorted(maps.Keys(d.dirty)) {
		if survives != nil && survives() {
			d.keepLocked(page)
		}
	}
	d.now = maps.Clone(d.kept)
	clear(d.dirty)
	d.closed = false
}

// Allocated returns how many bytes of memory hold the disk's contents.
func (d *Disk) Allocated() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return int64(len(d.now)) * pageSize
}

// Size implements block.Device.
func (d *Disk) Size() int64 { return d.size }

// Close implements block.Device.
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return nil
}

// ReadAt implements block.Device.
func (d *Disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.checkLocked(ctx, off, int64(len(p))); err != nil {
		return err
	}
	eachPage(off, int64(len(p)), func(page, from, to int64) {
		n := to - from
		if data := d.now[page]; data != nil {
			copy(p[:n], data[from:to])
		} else {
			clear(p[:n])
		}
		p = p[n:]
	})
	return nil
}

// WriteAt implements block.Writer.
func (d *Disk) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.checkLocked(ctx, off, int64(len(p))); err != nil {
		return err
	}
	n := int64(len(p))
	eachPage(off, n, func(page, from, to int64) {
		if !d.dirty[page] || d.now[page] == nil {
			own := make([]byte, pageSize)
			copy(own, d.now[page])
			d.now[page], d.dirty[page] = own, true
		}
		copy(d.now[page][from:to], p)
		p = p[to-from:]
	})
	d.forceLocked(off, n, fua)
	return nil
}

// Flush implements block.Flusher.
func (d *Disk) Flush(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.checkLocked(ctx, 0, 0); err != nil {
		return err
	}
	d.forceLocked(0, d.size, true)
	return nil
}

// Trim implements block.Trimmer: whole pages are given back, and read as zero.
func (d *Disk) Trim(ctx context.Context, off, n int64, fua bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.checkLocked(ctx, off, n); err != nil {
		return err
	}
	eachPage(off, n, func(page, from, to int64) {
		if to-from == pageSize {
			delete(d.now, page)
			d.dirty[page] = true
		}
	})
	d.forceLocked(off, n, fua)
	return nil
}

// WriteZeroes implements block.Zeroer.
func (d *Disk) WriteZeroes(ctx context.Context, off, n int64, hole, _, fua bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.checkLocked(ctx, off, n); err != nil {
		return err
	}
	eachPage(off, n, func(page, from, to int64) {
		if hole && to-from == pageSize {
			delete(d.now, page)
		} else {
			own := make([]byte, pageSize)
			copy(own, d.now[page])
			clear(own[from:to])
			d.now[page] = own
		}
		d.dirty[page] = true
	})
	d.forceLocked(off, n, fua)
	return nil
}

// Prefetch implements block.Prefetcher: all is near already.
func (d *Disk) Prefetch(ctx context.Context, off, n int64) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.checkLocked(ctx, off, n)
}

// Extents implements block.Mapper.
func (d *Disk) Extents(ctx context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error {
	d.mu.RLock()
	if err := d.checkLocked(ctx, off, n); err != nil {
		d.mu.RUnlock()
		return err
	}
	type run struct {
		n    int64
		hole bool
	}
	var runs []run
	eachPage(off, n, func(page, from, to int64) {
		hole := d.now[page] == nil
		if last := len(runs) - 1; last >= 0 && runs[last].hole == hole {
			runs[last].n += to - from
		} else {
			runs = append(runs, run{to - from, hole})
		}
	})
	// yield may come back for more.
	d.mu.RUnlock()
	for _, r := range runs {
		if !yield(r.n, r.hole, r.hole) {
			break
		}
	}
	return nil
}

// checkLocked returns why a request for a range fails, if it does.
func (d *Disk) checkLocked(ctx context.Context, off, n int64) error {
	if d.closed {
		return fmt.Errorf("disk in memory: %w", block.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("disk in memory: %w", err)
	}
	return block.CheckRange(d.size, off, n)
}

// forceLocked puts the pages of a range on stable storage, if fua.
func (d *Disk) forceLocked(off, n int64, fua bool) {
	if !fua {
		return
	}
	for page := range d.dirty {
		if page < off/pageSize || page*pageSize >= off+n {
			continue
		}
		d.keepLocked(page)
	}
}

// keepLocked puts a dirty page on stable storage.
func (d *Disk) keepLocked(page int64) {
	if data := d.now[page]; data != nil {
		d.kept[page] = data
	} else {
		delete(d.kept, page)
	}
	delete(d.dirty, page)
}

// eachPage calls f for each page of a range, with the part of the page that is in the range.
func eachPage(off, n int64, f func(page, from, to int64)) {
	for end := off + n; off < end; {
		from := off % pageSize
		to := min(pageSize, from+end-off)
		f(off/pageSize, from, to)
		off += to - from
	}
}
