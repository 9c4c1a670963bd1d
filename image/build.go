package image

import (
	"context"
	"io"
)

// Build hashes size bytes of r in blocks of blockSize and returns their tree, complete, and the checksums of the data blocks. It
// reads with as many workers as GOMAXPROCS. Progress, if not nil, is called with the number of bytes that are done, never less than before, from one
// goroutine at a time. When r ends early the error wraps io.ErrUnexpectedEOF.
func Build(ctx context.Context, r io.ReaderAt, size int64, blockSize int, progress func(done int64)) (*Tree, Checksums, error) {
	g, err := NewGeometry(size, blockSize)
	if err != nil {
		return nil, nil, err
	}
	// The hashes of one level after another: what is below them, hashed.
	level := make([]byte, int64(g.Data())*HashSize)
	sums := make(Checksums, g.Data())
	err = hashBlocks(ctx, r, g, progress, func(block uint32, h Hash, checksum uint64) {
		copy(level[int64(block)*HashSize:], h[:])
		sums[block] = checksum
	})
	if err != nil {
		return nil, nil, err
	}
	pages := make([][]byte, 0, g.Total()-g.Data())
	for {
		var above []byte
		for rest := level; len(rest) > 0; {
			n := min(len(rest), blockSize)
			h := Sum(rest[:n])
			pages, above, rest = append(pages, rest[:n]), append(above, h[:]...), rest[n:]
		}
		if len(above) == HashSize {
			t, err := treeOf(g, Hash(above), pages)
			return t, sums, err
		}
		level = above
	}
}

// treeOf makes a complete tree of all its pages, in block order, which it keeps. It verifies them from the root down; the
// error wraps block.ErrCorrupt.
func treeOf(g Geometry, root Hash, pages [][]byte) (*Tree, error) {
	t := newTree(g, root)
	for i := len(pages) - 1; i >= 0; i-- {
		if err := t.add(g.Data()+uint32(i), pages[i], false); err != nil {
			return nil, err
		}
	}
	return t, nil
}
