package image

import (
	"context"
	"fmt"

	"github.com/dnbd/dnbd/block"
)

// ReadAt implements block.Device. Every block of which p holds a part is read whole and checked, so reads of whole blocks are the
// cheapest.
func (m *Image) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := block.CheckRange(m.Size(), off, len(p)); err != nil {
		return err
	}
	g := m.Geometry()
	for len(p) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		number := uint32(off / int64(g.BlockSize()))
		in := int(off - g.Offset(number))
		n := min(g.Len(number)-in, len(p))
		if n == g.Len(number) {
			if _, err := m.ReadBlock(number, p[:n]); err != nil {
				return err
			}
		} else if err := m.readPart(number, p[:n], in); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// readPart fills p with the bytes of a block from in on.
func (m *Image) readPart(number uint32, p []byte, in int) error {
	buf, _ := m.parts.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, m.Descriptor().BlockSize)
		buf = &b
	}
	defer m.parts.Put(buf)
	if _, err := m.ReadBlock(number, *buf); err != nil {
		return err
	}
	copy(p, (*buf)[in:])
	return nil
}

// Size implements block.Device.
func (m *Image) Size() int64 { return m.sidecar.Descriptor.Size }

// Extents yields the runs of zero blocks and of others in the n bytes at off, in order. A zero block is a hole. The last run may
// reach beyond them.
func (m *Image) Extents(ctx context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error {
	if err := block.CheckRange(m.Size(), off, n); err != nil {
		return fmt.Errorf("extents of %s: %w", m.path, err)
	}
	if m.closed.Load() {
		return fmt.Errorf("extents of %s: %w", m.path, block.ErrClosed)
	}
	g := m.Geometry()
	for end := off + n; off < end; {
		number := uint32(off / int64(g.BlockSize()))
		zero, _ := m.Tree().IsZero(number)
		from, same := off, true
		for same && off < end {
			off = g.Offset(number) + int64(g.Len(number))
			number++
			next, _ := m.Tree().IsZero(number)
			same = next == zero
		}
		if err := ctx.Err(); err != nil || !yield(off-from, zero, zero) {
			return err
		}
	}
	return nil
}
