package image

import (
	"testing"

	"pgregory.net/rapid"
)

func TestBlocksAreNumberedLevelByLevel(t *testing.T) {
	const k = 4096 // bytes in a block, of 128 hashes
	for _, c := range []struct {
		size        int64
		data, total uint32
		lastData    int
		top         int // its length
	}{
		{1, 1, 2, 1, 32},
		{k - 1, 1, 2, k - 1, 32},
		{k, 1, 2, k, 32},
		{k + 1, 2, 3, 1, 64},
		{128 * k, 128, 129, k, k},
		{128*k + 1, 129, 129 + 2 + 1, 1, 64},
		{128 * 128 * k, 16384, 16384 + 128 + 1, k, k},
		{128*128*k + 5, 16385, 16385 + 129 + 2 + 1, 5, 64},
	} {
		g := mustGeometry(t, c.size, k)
		if g.Data() != c.data || g.Total() != c.total {
			t.Errorf("%d bytes: %d data blocks, %d in all; want %d and %d", c.size, g.Data(), g.Total(), c.data, c.total)
		}
		if got := g.Len(g.Data() - 1); got != c.lastData {
			t.Errorf("%d bytes: the last data block has %d, want %d", c.size, got, c.lastData)
		}
		if got := g.Len(g.Total() - 1); got != c.top {
			t.Errorf("%d bytes: the top page has %d, want %d", c.size, got, c.top)
		}
	}
}

func TestParentsHoldEachBlocksHashOnce(t *testing.T) {
	for _, size := range []int64{1, 4096, 4097, 128 * 4096, 129*4096 - 1, 128*128*4096 + 1} {
		g := mustGeometry(t, size, 4096)
		// In the order of the blocks the hashes fill one page after another, and no page has room for one more.
		page, next := g.Data(), 0
		for b := range g.Total() - 1 {
			if next*HashSize == g.Len(page) {
				page, next = page+1, 0
			}
			if p, slot, ok := g.Parent(b); !ok || p != page || slot != next {
				t.Fatalf("%d bytes: Parent(%d) = %d, %d, %v, want %d, %d", size, b, p, slot, ok, page, next)
			}
			next++
		}
		if page != g.Total()-1 || next*HashSize != g.Len(page) {
			t.Errorf("%d bytes: the hashes end at %d of page %d, the top is %d of %d bytes", size, next, page, g.Total()-1, g.Len(page))
		}
		if _, _, ok := g.Parent(g.Total() - 1); ok {
			t.Errorf("%d bytes: the top page has a parent", size)
		}
	}
}

func TestAnyGeometryAddsUpAndAnyBlockNumberIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		blockSize := 1 << rapid.IntRange(12, 20).Draw(t, "log2 of block size")
		size := rapid.Int64Range(1, 1<<43).Draw(t, "size")
		g, err := NewGeometry(size, blockSize)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Offset(g.Data()-1) + int64(g.Len(g.Data()-1)); got != size {
			t.Errorf("the data blocks have %d bytes", got)
		}
		b := rapid.Uint32().Draw(t, "block")
		n := g.Len(b)
		if (n > 0) != (b < g.Total()) || n > blockSize {
			t.Errorf("Len(%d) = %d of %d blocks", b, n, g.Total())
		}
		page, slot, ok := g.Parent(b)
		if ok != (b < g.Total()-1) {
			t.Errorf("Parent(%d) of %d blocks: %v", b, g.Total(), ok)
		}
		if ok && (page <= b || page < g.Data() || page >= g.Total() || (slot+1)*HashSize > g.Len(page)) {
			t.Errorf("Parent(%d) = %d, %d: not a hash of a later page", b, page, slot)
		}
	})
}

func TestTheZeroGeometryHasNoBlocks(t *testing.T) {
	var g Geometry
	if _, _, ok := g.Parent(0); ok || g.Data() != 0 || g.Total() != 0 || g.Len(0) != 0 || g.Size() != 0 {
		t.Errorf("%+v", g)
	}
}
