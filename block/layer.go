package block

import (
	"context"
	"errors"
	"fmt"
)

// How layers keep capabilities.
//
// A layer is a Device over a Device. It has to pass on the capabilities of the one below, and it must not pretend to others:
// a server offers its clients to write because the device it was given has WriteAt. So a layer is written as one type with
// all methods, which embeds Lower and overrides what it changes, and its constructor returns it through Expose, which hides
// what is not true of it. Then a type assertion tells the truth at every height of a stack, and nobody needs a second way
// to ask.
//
// Six capabilities make 64 shapes, and Expose has six. Whether a device can be written and whether it can be flushed are
// promises that no layer can make in its stead, so these are exact. For a device that can be written the other four have an
// answer that is always true (Lower says which), and it gets them all. One that can only be read keeps what it has, exactly.

// Lower is the device below a layer, with a method for every capability. It passes on what the device has. It makes good
// what can be made good honestly: nothing is given back by Trim, WriteZeroes writes zeroes, Prefetch does nothing, and
// Extents says that all is data. WriteAt and Flush of a device that lacks them fail with errors.ErrUnsupported.
type Lower struct{ Device }

// zeroes is what WriteZeroes writes where the device has no better way.
var zeroes [256 << 10]byte

// Expose returns layer with the methods that caps has, or a few more: see above. A layer over d that adds nothing is
// Expose(layer, Has(d)).
func Expose(layer Full, caps Caps) Device {
	switch {
	case caps&CanWrite != 0 && caps&CanFlush != 0:
		return layer
	case caps&CanWrite != 0:
		return struct {
			Device
			Writer
			Trimmer
			Zeroer
			Prefetcher
			Mapper
		}{layer, layer, layer, layer, layer, layer}
	}
	switch caps & (CanPrefetch | CanMap) {
	case CanPrefetch | CanMap:
		return struct {
			Device
			Prefetcher
			Mapper
		}{layer, layer, layer}
	case CanPrefetch:
		return struct {
			Device
			Prefetcher
		}{layer, layer}
	case CanMap:
		return struct {
			Device
			Mapper
		}{layer, layer}
	}
	return struct{ Device }{layer}
}

// ReadOnly returns d without what changes it.
func ReadOnly(d Device) Device {
	return Expose(Lower{d}, Has(d)&(CanPrefetch|CanMap))
}

// WriteAt implements Writer.
func (l Lower) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	if w, ok := l.Device.(Writer); ok {
		return w.WriteAt(ctx, p, off, fua)
	}
	return fmt.Errorf("write to a device that can only be read: %w", errors.ErrUnsupported)
}

// Flush implements Flusher.
func (l Lower) Flush(ctx context.Context) error {
	if f, ok := l.Device.(Flusher); ok {
		return f.Flush(ctx)
	}
	return fmt.Errorf("flush a device that cannot be flushed: %w", errors.ErrUnsupported)
}

// Trim implements Trimmer.
func (l Lower) Trim(ctx context.Context, off, n int64, fua bool) error {
	if t, ok := l.Device.(Trimmer); ok {
		return t.Trim(ctx, off, n, fua)
	}
	return l.check(ctx, off, n)
}

// WriteZeroes implements Zeroer.
func (l Lower) WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error {
	if z, ok := l.Device.(Zeroer); ok {
		return z.WriteZeroes(ctx, off, n, hole, fast, fua)
	}
	if err := l.check(ctx, off, n); err != nil {
		return err
	}
	if fast {
		return fmt.Errorf("write zeroes fast: %w", errors.ErrUnsupported)
	}
	// One flush at the end is better than forcing each piece, where there is one.
	f, flushes := l.Device.(Flusher)
	for end := off + n; off < end; {
		piece := min(end-off, int64(len(zeroes)))
		if err := l.WriteAt(ctx, zeroes[:piece], off, fua && !flushes); err != nil {
			return err
		}
		off += piece
	}
	if fua && flushes {
		return f.Flush(ctx)
	}
	return nil
}

// Prefetch implements Prefetcher.
func (l Lower) Prefetch(ctx context.Context, off, n int64) error {
	if p, ok := l.Device.(Prefetcher); ok {
		return p.Prefetch(ctx, off, n)
	}
	return l.check(ctx, off, n)
}

// Extents implements Mapper.
func (l Lower) Extents(ctx context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error {
	if m, ok := l.Device.(Mapper); ok {
		return m.Extents(ctx, off, n, yield)
	}
	if err := l.check(ctx, off, n); err != nil {
		return err
	}
	if n > 0 {
		yield(n, false, false)
	}
	return nil
}

// check returns the error that any request for the range would fail with.
func (l Lower) check(ctx context.Context, off, n int64) error {
	if err := CheckRange(l.Size(), off, n); err != nil {
		return err
	}
	// An empty read costs nothing, and tells whether the device is closed.
	return l.ReadAt(ctx, nil, off)
}
