package overlay

import (
	"bytes"
	"context"
	"fmt"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/image"
)

// rebasePiece is how many bytes of two devices are compared at a time. Images are compared by the hashes of their blocks
// first, which are of no more bytes.
const rebasePiece = 1 << 20

// Rebase makes the overlay one over next, which is, so that the device reads as it did: what next has otherwise, and the
// overlay has not, is copied into it from the base, and what next has as well leaves it. It is put on stable storage. d is
// still one over its base, and only to be closed; nobody else may use it meanwhile. When the error is not nil, or a crash
// ends it, the overlay belongs to the one base or the other and reads the same over that. progress, if not nil, is told up
// to where in the device it has come.
func (d *Device) Rebase(ctx context.Context, next block.Device, is Base, progress func(done int64)) error {
	if is.Size != d.size || next.Size() != d.size {
		return fmt.Errorf("rebase the overlay: %v has %d bytes, and its base %d: it would have to grow or shrink with it, "+
			"which is not possible; commit it instead", is, next.Size(), d.size)
	}
	if progress == nil {
		progress = func(int64) {}
	}
	same := sameBlocks(d.base.Device, next)
	err := d.eachPiece(ctx, func(off, n int64, s state) error {
		progress(off)
		if s != isBase || same(off, n) {
			return nil
		}
		return d.compare(ctx, next, off, n, func(off int64, p []byte, equal bool) error {
			switch {
			case equal:
				return nil
			case len(bytes.TrimLeft(p, "\x00")) == 0:
				return d.WriteZeroes(ctx, off, int64(len(p)), true, false, false)
			}
			return d.WriteAt(ctx, p, off, false)
		})
	})
	if err != nil {
		return fmt.Errorf("rebase the overlay: copy what differs: %w", err)
	}
	d.flusher.header.base = is
	if err := d.flusher.commit(ctx, true); err != nil {
		return fmt.Errorf("rebase the overlay: %w", err)
	}
	if err := d.leaveOut(ctx, next); err != nil {
		return fmt.Errorf("rebase the overlay: leave out what the base has: %w", err)
	}
	return nil
}

// leaveOut makes the blocks that next has as well its own.
func (d *Device) leaveOut(ctx context.Context, next block.Device) error {
	var spare []span
	err := d.eachPiece(ctx, func(off, n int64, s state) error {
		if s == isBase {
			return nil
		}
		return d.compare(ctx, next, off, n, func(off int64, p []byte, equal bool) error {
			if !equal {
				return nil
			}
			s := newSpan(off, int64(len(p)))
			spare = append(spare, s)
			return d.join(ctx, s, isBase)
		})
	})
	if err != nil {
		return err
	}
	// Their space is given back when it is certain that nobody reads it again.
	if err := d.flusher.flush(ctx); err != nil {
		return err
	}
	for _, s := range spare {
		if err := d.scratch.Trim(ctx, d.at(s.off), (s.end-s.first)*BlockSize, false); err != nil {
			return err
		}
	}
	return nil
}

// eachPiece calls f for each run of blocks of one state, cut where a multiple of rebasePiece is.
func (d *Device) eachPiece(ctx context.Context, f func(off, n int64, s state) error) error {
	for off := int64(0); off < d.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, n := d.run(off, min(rebasePiece-off%rebasePiece, d.size-off))
		if err := f(off, n, s); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// compare reads n bytes at off of the device and of next, and calls f for each run of blocks that are equal, or are not,
// with the device's bytes.
func (d *Device) compare(ctx context.Context, next block.Device, off, n int64,
	f func(off int64, p []byte, equal bool) error,
) error {
	ours, theirs := make([]byte, n), make([]byte, n)
	if err := d.ReadAt(ctx, ours, off); err != nil {
		return err
	}
	if err := next.ReadAt(ctx, theirs, off); err != nil {
		return err
	}
	equal := func(at int64) bool {
		end := min(at+BlockSize, n)
		return bytes.Equal(ours[at:end], theirs[at:end])
	}
	for at := int64(0); at < n; {
		is, end := equal(at), min(at+BlockSize, n)
		for end < n && equal(end) == is {
			end = min(end+BlockSize, n)
		}
		if err := f(off+at, ours[at:end], is); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// sameBlocks returns a function that knows of some ranges without reading them that they are the same in both devices.
func sameBlocks(a, b block.Device) func(off, n int64) bool {
	x, ok := a.(*image.Image)
	y, too := b.(*image.Image)
	if !ok || !too || x.Geometry() != y.Geometry() {
		return func(int64, int64) bool { return false }
	}
	size := int64(x.Geometry().BlockSize())
	return func(off, n int64) bool {
		for b := uint32(off / size); int64(b)*size < off+n; b++ {
			of, _ := x.Tree().Hash(b)
			other, _ := y.Tree().Hash(b)
			if of != other {
				return false
			}
		}
		return true
	}
}
