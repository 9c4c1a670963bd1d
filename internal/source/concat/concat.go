// Package concat makes one block.Device of several, one behind the other.
package concat

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sort"

	"github.com/dnbd/dnbd/block"
)

// Part is a device whose first Size bytes are part of a larger one.
type Part struct {
	Device block.Device
	Size   int64 // in bytes, at most the device's
}

// New returns the device that the parts make. It can do what all of them can. They belong to it, and are closed with it;
// when New fails they are still the caller's.
func New(parts []Part) (block.Device, error) {
	d := &device{}
	caps := ^block.Caps(0)
	for i, p := range parts {
		switch has := p.Device.Size(); {
		case p.Size < 0 || p.Size > has:
			return nil, fmt.Errorf("part %d: its first %d bytes are wanted, and it has %d", i, p.Size, has)
		case p.Size > math.MaxInt64-d.size:
			return nil, fmt.Errorf("part %d: too large with those before it", i)
		}
		d.parts = append(d.parts, part{block.Lower{Device: p.Device}, d.size, d.size + p.Size})
		d.size += p.Size
		caps &= block.Has(p.Device)
	}
	if len(parts) == 0 {
		return nil, errors.New("a device of no parts")
	}
	return block.Expose(d, caps), nil
}

// device is parts one behind the other.
type device struct {
	parts []part
	size  int64
}

// part is a device and where its bytes are in the whole: from begin to before end.
type part struct {
	block.Lower
	begin, end int64
}

// each calls do for each part of a range, until one fails: with the part, where in it, and where in the range of n bytes.
// An empty range is one part, so that errors are found.
func (d *device) each(off, n int64, do func(p *part, off, from, to int64) error) error {
	if err := block.CheckRange(d.size, off, n); err != nil {
		return err
	}
	i := sort.Search(len(d.parts)-1, func(i int) bool { return d.parts[i].end > off })
	for from := int64(0); ; i++ {
		p := &d.parts[i]
		to := min(n, p.end-off)
		if to > from || n == 0 {
			if err := do(p, off+from-p.begin, from, to); err != nil {
				return err
			}
		}
		if from = to; from == n {
			return nil
		}
	}
}

// Size implements block.Device.
func (d *device) Size() int64 { return d.size }

// Close implements block.Device.
func (d *device) Close() error {
	var all []error
	for _, p := range d.parts {
		all = append(all, p.Close())
	}
	return errors.Join(all...)
}

// ReadAt implements block.Device.
func (d *device) ReadAt(ctx context.Context, b []byte, off int64) error {
	return d.each(off, int64(len(b)), func(p *part, off, from, to int64) error { return p.ReadAt(ctx, b[from:to], off) })
}

// WriteAt implements block.Writer.
func (d *device) WriteAt(ctx context.Context, b []byte, off int64, fua bool) error {
	return d.each(off, int64(len(b)), func(p *part, off, from, to int64) error { return p.WriteAt(ctx, b[from:to], off, fua) })
}

// Flush implements block.Flusher.
func (d *device) Flush(ctx context.Context) error {
	for _, p := range d.parts {
		if err := p.Flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Trim implements block.Trimmer.
func (d *device) Trim(ctx context.Context, off, n int64, fua bool) error {
	return d.each(off, n, func(p *part, off, from, to int64) error { return p.Trim(ctx, off, to-from, fua) })
}

// WriteZeroes implements block.Zeroer. Fast, it fails at once where the first of its parts does; if a later one does, which
// is as slow as the others otherwise, those before it are zero already.
func (d *device) WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error {
	return d.each(off, n, func(p *part, off, from, to int64) error { return p.WriteZeroes(ctx, off, to-from, hole, fast, fua) })
}

// Prefetch implements block.Prefetcher.
func (d *device) Prefetch(ctx context.Context, off, n int64) error {
	return d.each(off, n, func(p *part, off, from, to int64) error { return p.Prefetch(ctx, off, to-from) })
}

// errEnough ends a look at the extents.
var errEnough = errors.New("enough extents")

// Extents implements block.Mapper.
func (d *device) Extents(ctx context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error {
	err := d.each(off, n, func(p *part, off, from, to int64) error {
		more, left := true, to-from
		err := p.Extents(ctx, off, left, func(n int64, hole, zero bool) bool {
			n = min(n, left) // what is behind a part's end is not of the whole
			left -= n
			more = yield(n, hole, zero)
			return more && left > 0
		})
		if err == nil && !more {
			err = errEnough
		}
		return err
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}
