// Package overlay is a layer that keeps what is written to a device apart from it, in a file that outlives process and
// machine and knows which device it belongs to.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/image"
)

// Design
//
// docs/overlay-format.md has the bytes. The scratch device holds a block of the overlay where the base has it, behind headers
// and map; so there is no allocator, what is written one after the other lies so, and it takes the space of what was
// written, since the file is sparse. A map says of each block whether it is the base's, the overlay's, or zero.
//
// What was flushed must outlive a power cut. A flush takes the pages of the map that changed as they are, flushes the
// scratch, so that what they speak of is there, writes each to the one of its two places that does not count, and a header
// with the sum of all pages' checksums to the one of its two places that does not count, and flushes again. If the header and
// all that it sums up arrived it counts, otherwise the one before does, of which nothing was overwritten. A block whose state
// is on stable storage and is changed again without a flush is one of: as it was, zero as its space was given back, or new.
// All of these it was at some time since the flush, so no order between data and map has to be kept but the one above.
//
// What was answered must outlive the process, flushed or not: the kernel that holds the device goes on with the next process.
// Hence a second, live map in the file, which is changed before a write is answered and never flushed. The kernel keeps both
// it and the data for as long as it runs; so it counts if the machine has not been started since (the header has the id
// of that start), and otherwise not.
//
// A block of the overlay is whole. The first write to a part of a block copies the rest from the base. Until the block's
// state is changed that must not cross another write to the same block, or it would bring the base's old bytes back over
// it. So whoever changes the state of blocks claims them for as long as it lasts, and others wait; writes to blocks that
// are the overlay's already need no claim.
//
// The metadata of a part of the device is given its space before the first block of that part is taken in, so that a full
// disk is met by the writer, where nothing is harmed, and never by the map.
//
// Not done: to grow with the base; checksums of the data, which the file system may do; snapshots.

// BlockSize is the unit of the overlay in bytes: the page of most machines and the block of most file systems, so that what
// these write needs nothing from the base.
const BlockSize = 4096

// Errors of a scratch device that cannot be used.
var (
	// ErrFormat: it is no overlay.
	ErrFormat = errors.New("not an overlay of dnbd's")
	// ErrVersion: it is of a version of the format that this program does not know.
	ErrVersion = errors.New("an overlay of another version")
	// ErrDamaged: its metadata does not match its checksums.
	ErrDamaged = errors.New("the overlay is damaged")
)

// Base says which device an overlay belongs to.
type Base struct {
	// Name is the image's; at most image.MaxNameLen bytes of it are kept.
	Name string
	// Revision is the image's, 0 for what is no image.
	Revision uint64
	// ID is the image's. It is zero for what is no image, which is known by its size alone.
	ID image.ID
	// Size is in bytes.
	Size int64
}

// String names the base for people.
func (b Base) String() string {
	if (b.ID == image.ID{}) {
		return fmt.Sprintf("%s of %d bytes", b.Name, b.Size)
	}
	return fmt.Sprintf("%s@%d, id %s", b.Name, b.Revision, b.ID)
}

// is says whether both are the same device, whatever it is called.
func (b Base) is(other Base) bool { return b.ID == other.ID && b.Size == other.Size }

// MismatchError is the error of an overlay that belongs to another device.
type MismatchError struct{ Of, Wanted Base }

// Error implements error.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("the overlay belongs to %v, and not to %v", e.Of, e.Wanted)
}

// Device is a device that reads as its base does until it is written to, and has every capability.
type Device struct {
	base    block.Lower
	scratch block.Lower
	size    int64
	closed  atomic.Bool

	// changes is held for reading by each change, and by Close.
	changes sync.RWMutex
	// live is held while states change, first in the live map. It is taken before mu.
	live sync.Mutex
	// reserving is held while space for metadata is taken. It is taken before mu.
	reserving sync.Mutex

	// mu is never held while a device works.
	mu sync.RWMutex
	// states has the state of each block. They change with live held too.
	states states
	// pages has what is known of each page of the map.
	pages []page
	// changed has the pages with states that changed since a flush last looked.
	changed map[int64]struct{}
	// claims are the blocks whose states are about to change.
	claims map[*claim]struct{}

	flusher flusher
}

// page is a page of the map, of which the file has two places and the live one.
type page struct {
	// active is the place that counts, 0 or 1, or -1 when none does and all blocks are the base's. sum is the checksum there.
	// Both belong to the round of flushes under way.
	active int
	sum    uint64
	// reserved says that the page has its space in the file. Guarded by Device.mu.
	reserved bool
}

// Open returns a device over base that keeps what is written on scratch, of Size bytes, and has what an earlier one kept
// there. A scratch that begins with zeroes becomes an empty overlay of is, which says what the base is. One that belongs to
// another base is refused with a *MismatchError, and one that is none or is damaged with ErrFormat, ErrVersion or ErrDamaged;
// none of these is written to. It is up to the caller that nobody else uses the scratch. When the error is nil both devices
// belong to the layer, which closes them.
func Open(ctx context.Context, base, scratch block.Device, is Base) (*Device, error) {
	return open(ctx, base, scratch, is, thisBoot())
}

// open is Open on a machine whose start has an id.
func open(ctx context.Context, base, scratch block.Device, is Base, boot [bootSize]byte) (*Device, error) {
	if base.Size() != is.Size {
		return nil, fmt.Errorf("overlay: the base has %d bytes, and is said to have %d", base.Size(), is.Size)
	}
	if need := block.CanWrite | block.CanFlush; block.Has(scratch)&need != need {
		return nil, errors.New("overlay: the scratch device cannot be written to and flushed")
	}
	f, err := load(ctx, scratch, boot)
	if err != nil {
		return nil, err
	}
	if f == nil {
		if have := scratch.Size(); have != Size(is.Size) {
			return nil, fmt.Errorf("%w: it is %d bytes long, and a new one would be %d", ErrFormat, have, Size(is.Size))
		}
		f = newStored(is)
	}
	if !f.header.base.is(is) {
		return nil, &MismatchError{Of: f.header.base, Wanted: is}
	}
	d := &Device{
		base:    block.Lower{Device: base},
		scratch: block.Lower{Device: scratch},
		size:    is.Size,
		states:  f.states,
		pages:   f.pages,
		changed: f.stale,
		claims:  map[*claim]struct{}{},
	}
	d.flusher = flusher{d: d, header: f.header, place: f.place, seq: f.seq, unwritten: map[int64]struct{}{}}
	if err := d.start(ctx, f, boot); err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	return d, nil
}

// start makes the live map that of the device, and notes in the file that it counts from now on.
func (d *Device) start(ctx context.Context, f *stored, boot [bootSize]byte) error {
	if f.new {
		if err := d.scratch.WriteAt(ctx, make([]byte, headers*headerSize), 0, false); err != nil {
			return err // there is no room for headers
		}
	}
	for _, p := range f.liveStale {
		if err := d.scratch.WriteAt(ctx, d.states.encode(p), pageOffset(p, livePlace)+pageStates, false); err != nil {
			return err
		}
	}
	d.flusher.header.open, d.flusher.header.boot = true, boot
	return d.flusher.commit(ctx, true)
}

// Size implements block.Device.
func (d *Device) Size() int64 { return d.size }

// Close implements block.Device. What was answered is on stable storage when it returns nil.
func (d *Device) Close() error {
	d.changes.Lock()
	defer d.changes.Unlock()
	if d.closed.Swap(true) {
		return nil
	}
	return errors.Join(d.flusher.finish(context.Background()), d.base.Close(), d.scratch.Close())
}

// Held is how much an overlay holds, in bytes of whole blocks.
type Held struct {
	Data int64 // written
	Zero int64 // known to be zero, which takes no space
}

// Held says what the overlay holds now.
func (d *Device) Held() Held {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.states.held()
}

// ReadAt implements block.Device.
func (d *Device) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.check(ctx, off, int64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 {
		s, n := d.run(off, int64(len(p)))
		var err error
		switch s {
		case isBase:
			err = d.base.ReadAt(ctx, p[:n], off)
		case isData:
			err = d.scratch.ReadAt(ctx, p[:n], d.at(off))
		case isZero:
			clear(p[:n])
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// Prompt says whether a write waits for nothing but the scratch: whether it is of whole blocks that are the overlay's already.
func (d *Device) Prompt(off, n int64) bool {
	if off%BlockSize != 0 || n%BlockSize != 0 || n == 0 || block.CheckRange(d.size, off, n) != nil {
		return false
	}
	s, like := d.run(off, n)
	return s == isData && like == n
}

// Prefetch implements block.Prefetcher.
func (d *Device) Prefetch(ctx context.Context, off, n int64) error {
	if err := d.check(ctx, off, n); err != nil {
		return err
	}
	for n > 0 {
		s, run := d.run(off, n)
		var err error
		switch s {
		case isBase:
			err = d.base.Prefetch(ctx, off, run)
		case isData:
			err = d.scratch.Prefetch(ctx, d.at(off), run)
		}
		if err != nil {
			return err
		}
		off, n = off+run, n-run
	}
	return nil
}

// Extents implements block.Mapper: the base's where it shows; what is zero in the overlay is a hole.
func (d *Device) Extents(ctx context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error {
	if err := d.check(ctx, off, n); err != nil {
		return err
	}
	for more := true; n > 0 && more; {
		s, run := d.run(off, n)
		if s == isBase {
			left := run
			err := d.base.Extents(ctx, off, run, func(n int64, hole, zero bool) bool {
				n = min(n, left) // the base's goes on below the overlay
				left -= n
				more = yield(n, hole, zero)
				return more && left > 0
			})
			if err != nil {
				return err
			}
		} else {
			more = yield(run, s == isZero, s == isZero)
		}
		off, n = off+run, n-run
	}
	return nil
}

// run returns the state of the block at off, and how many of n bytes from there are in blocks of that state.
func (d *Device) run(off, n int64) (s state, like int64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	first := off / BlockSize
	end := d.states.run(first, blocks(off+n))
	return d.states.get(first), min(end*BlockSize-off, n)
}

// at is where in the scratch the byte at off of the device has its place.
func (d *Device) at(off int64) int64 { return dataOffset(d.size) + off }

// check returns why a request fails before it is made, if it does.
func (d *Device) check(ctx context.Context, off, n int64) error {
	if d.closed.Load() {
		return fmt.Errorf("overlay: %w", block.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	return block.CheckRange(d.size, off, n)
}

var _ block.Full = (*Device)(nil)
