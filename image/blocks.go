package image

import (
	"context"

	"github.com/dnbd/dnbd/block"
)

// OffersExport is what servers of a group call the NBD export that tells which images they have: see docs/protocol.md.
const OffersExport = "dnbd:"

// ExportName is what servers call the NBD export of all blocks of an image, see Image.Blocks.
func (id ID) ExportName() string { return "dnbd:" + id.String() }

// Blocks returns the image with its tree as one device of blocks that all have the same size: block n, of data or a page, is at n times
// BlockSize, and zeros follow one that is shorter. It is of use as long as the image is open, and does not close it.
func (m *Image) Blocks() block.Device { return &blocks{m} }

// blocks is what Blocks returns.
type blocks struct{ image *Image }

// Size implements block.Device.
func (b *blocks) Size() int64 {
	g := b.image.Geometry()
	return g.Offset(g.Total())
}

// ReadAt implements block.Device.
func (b *blocks) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := block.CheckRange(b.Size(), off, len(p)); err != nil {
		return err
	}
	g := b.image.Geometry()
	for len(p) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		number := uint32(off / int64(g.BlockSize()))
		in := int(off - g.Offset(number))
		n := min(g.BlockSize()-in, len(p))
		held := min(max(g.Len(number)-in, 0), n)
		if in == 0 && held == g.Len(number) {
			if _, err := b.image.ReadBlock(number, p[:held]); err != nil {
				return err
			}
		} else if err := b.image.readPart(number, p[:held], in); err != nil {
			return err
		}
		clear(p[held:n])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// Close implements block.Device.
func (b *blocks) Close() error { return nil }
