package image

import (
	"bytes"
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/dnbd/dnbd/block"
)

// build hashes data in blocks of blockSize.
func build(t testing.TB, data []byte, blockSize int) *Tree {
	t.Helper()
	tree, _ := buildAll(t, data, blockSize)
	return tree
}

func buildAll(t testing.TB, data []byte, blockSize int) (*Tree, Checksums) {
	t.Helper()
	tree, sums, err := Build(context.Background(), bytes.NewReader(data), int64(len(data)), blockSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tree, sums
}

// threeLevels is the tree of an image of 4 KiB blocks with two second-level pages.
func threeLevels(t testing.TB) (*Tree, Descriptor) {
	t.Helper()
	s := largeSidecar(t)
	return s.Tree, s.Descriptor
}

// largeSidecar is what there is to be kept of that image, but for its labels.
func largeSidecar(t testing.TB) *Sidecar {
	t.Helper()
	data := make([]byte, (128*128+300)*4096+77)
	copy(data[5*4096:], randomBytes(200*4096, 1))
	copy(data[len(data)-100:], "the end")
	full, sums := buildAll(t, data, 4096)
	return &Sidecar{
		Descriptor: Descriptor{Size: int64(len(data)), BlockSize: 4096, Root: full.Root()}, Tree: full, Checksums: sums,
	}
}

func TestAPageIsKnownOnlyAfterThoseAbove(t *testing.T) {
	full, d := threeLevels(t)
	g, tree := full.Geometry(), NewTree(d)
	top := g.Total() - 1
	if h, ok := tree.Hash(top); !ok || h != d.Root {
		t.Errorf("the hash of the top page is not known from the start")
	}
	for _, b := range []uint32{0, g.Data() - 1, g.Data(), top - 1} {
		if _, ok := tree.Hash(b); ok {
			t.Errorf("the hash of block %d is known to an empty tree", b)
		}
		if _, known := tree.IsZero(b); known {
			t.Errorf("an empty tree knows whether block %d is zero", b)
		}
	}
	first := mustPage(t, full, g.Data())
	if err := tree.AddPage(g.Data(), first); !errors.Is(err, ErrNoParent) {
		t.Errorf("adding a page before the one above: %v, want ErrNoParent", err)
	}
	path := []uint32{g.Data()}
	for {
		above, _, ok := g.Parent(path[len(path)-1])
		if !ok {
			break
		}
		path = append(path, above)
	}
	if len(path) != 3 {
		t.Fatalf("%d levels, want 3", len(path))
	}
	for _, page := range slices.Backward(path) {
		if err := tree.AddPage(page, mustPage(t, full, page)); err != nil {
			t.Fatal(err)
		}
	}
	if h, ok := tree.Hash(7); !ok || h != mustHash(t, full, 7) {
		t.Errorf("the hash of block 7 is not known with all pages above it")
	}
	if _, ok := tree.Hash(g.Data() - 1); ok {
		t.Errorf("the hash of the last block is known without its page")
	}
}

func TestAWrongPageIsRefused(t *testing.T) {
	full, d := threeLevels(t)
	g := full.Geometry()
	top := g.Total() - 1
	page := mustPage(t, full, top)
	flipped := bytes.Clone(page)
	flipped[len(flipped)-1] ^= 1
	for what, c := range map[string]struct {
		block uint32
		data  []byte
		want  error
	}{
		"a flipped bit":       {top, flipped, block.ErrCorrupt},
		"another page":        {top, mustPage(t, full, top-1), block.ErrCorrupt},
		"nothing":             {top, nil, block.ErrCorrupt},
		"a byte less":         {top, page[:len(page)-1], block.ErrCorrupt},
		"a byte more":         {top, append(bytes.Clone(page), 0), block.ErrCorrupt},
		"a data block":        {0, page, ErrNotPage},
		"behind the top page": {top + 1, page, ErrNotPage},
		"the largest number":  {math.MaxUint32, page, ErrNotPage},
	} {
		tree := NewTree(d)
		if err := tree.AddPage(c.block, c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: AddPage = %v, want %v", what, err, c.want)
		}
		if _, ok := tree.Page(top); ok {
			t.Errorf("%s: the page is known after it was refused", what)
		}
	}
}

func TestAPageIsCopied(t *testing.T) {
	full, d := threeLevels(t)
	top := full.Geometry().Total() - 1
	page, tree := bytes.Clone(mustPage(t, full, top)), NewTree(d)
	if err := tree.AddPage(top, page); err != nil {
		t.Fatal(err)
	}
	page[0] ^= 1
	if got := mustPage(t, tree, top); got[0] == page[0] {
		t.Error("the tree changed with the caller's bytes")
	}
}

func TestZeroBlocksAreKnownFromTheTree(t *testing.T) {
	data := make([]byte, 3*4096+10)
	data[4096] = 1
	tree := build(t, data, 4096)
	for b, want := range []bool{true, false, true, true, false} { // the last is the page
		if zero, known := tree.IsZero(uint32(b)); zero != want || !known {
			t.Errorf("IsZero(%d) = %v, %v, want %v", b, zero, known, want)
		}
	}
	if _, known := tree.IsZero(5); known {
		t.Error("a block that does not exist is known")
	}
}

func TestATreeWithoutAValidGeometryHasNoBlocks(t *testing.T) {
	for _, d := range []Descriptor{{}, {Size: math.MaxInt64, BlockSize: 4096}, {Size: 1, BlockSize: 3}} {
		tree := NewTree(d)
		for _, b := range []uint32{0, 1, math.MaxUint32} {
			if _, ok := tree.Hash(b); ok {
				t.Errorf("%+v: hash of %d is known", d, b)
			}
			if _, ok := tree.Page(b); ok {
				t.Errorf("%+v: page %d is known", d, b)
			}
			if err := tree.AddPage(b, nil); !errors.Is(err, ErrNotPage) {
				t.Errorf("%+v: AddPage(%d) = %v", d, b, err)
			}
		}
	}
}

func TestALargeGeometryCostsNoMemory(t *testing.T) {
	d := Descriptor{Size: 1 << 43, BlockSize: 4096}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	NewTree(d)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("an empty tree of 2^31 blocks takes %d bytes", n)
	}
}

func TestPagesAreAddedWhileOthersRead(t *testing.T) {
	full, d := threeLevels(t)
	g, tree := full.Geometry(), NewTree(d)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for b := g.Total() - 1; b >= g.Data(); b-- {
				if err := tree.AddPage(b, mustPage(t, full, b)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for known := false; !known; {
				for b := range g.Total() {
					h, ok := tree.Hash(b)
					if ok && h != mustHash(t, full, b) {
						t.Errorf("wrong hash of %d", b)
					}
					known = ok
				}
				_, known = tree.Page(g.Data())
			}
		})
	}
	wg.Wait()
	for b := range g.Total() {
		if mustHash(t, tree, b) != mustHash(t, full, b) {
			t.Fatalf("hash of %d differs", b)
		}
	}
}

func TestReadingTheTreeAllocatesNothing(t *testing.T) {
	tree, _ := threeLevels(t)
	if n := testing.AllocsPerRun(100, func() {
		tree.Hash(7)
		tree.IsZero(7)
		tree.Page(tree.geometry.Data())
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTreeHash(b *testing.B) {
	tree, _ := threeLevels(b)
	data := tree.Geometry().Data()
	for i := uint32(0); b.Loop(); i++ {
		tree.Hash(i % data)
	}
}

func mustPage(t testing.TB, tree *Tree, number uint32) []byte {
	t.Helper()
	p, ok := tree.Page(number)
	if !ok {
		t.Fatalf("page %d is not known", number)
	}
	return p
}

func mustHash(t testing.TB, tree *Tree, number uint32) Hash {
	t.Helper()
	h, ok := tree.Hash(number)
	if !ok {
		t.Fatalf("the hash of block %d is not known", number)
	}
	return h
}
