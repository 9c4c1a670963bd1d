package image

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/dnbd/dnbd/block"
)

// Why a page cannot be added to a tree.
var (
	// ErrNotPage: the block is none of the tree's pages.
	ErrNotPage = errors.New("not a page of the tree")
	// ErrNoParent: the page above, which says what this one's hash is, is not known yet.
	ErrNoParent = errors.New("the page above is not known yet")
)

// Tree holds those pages of an image's hash tree that are known so far; each was verified against the one above it, and
// the top one against the root. All methods may be called from many goroutines at once; the reading ones take no lock and
// allocate nothing.
//
// It costs memory for the pages it has, not for the size that a descriptor claims.
type Tree struct {
	geometry Geometry
	root     Hash
	zero     Hash // of a full data block of zero bytes
	lastZero Hash // of as many zero bytes as the last data block has
	top      atomic.Pointer[page]
}

// page is a known page. Neither field changes; what the pointers in below point to is set once.
type page struct {
	hashes []byte
	below  []atomic.Pointer[page] // by slot; nil in the first level, whose hashes are of data
}

// NewTree returns the tree of an image of which only the root is known. A descriptor without a valid Geometry makes a tree
// without blocks.
func NewTree(d Descriptor) *Tree {
	g, err := d.Geometry()
	if err != nil {
		return &Tree{}
	}
	return newTree(g, d.Root)
}

func newTree(g Geometry, root Hash) *Tree {
	return &Tree{geometry: g, root: root, zero: ZeroHash(g.blockSize), lastZero: ZeroHash(g.Len(g.Data() - 1))}
}

// Geometry says how the tree's image is divided into blocks.
func (t *Tree) Geometry() Geometry { return t.geometry }

// Root is the hash of the top page.
func (t *Tree) Root() Hash { return t.root }

// Hash returns the hash of a data block or page. It is false while the page that holds the hash is not known; the hash of
// the top page is always known.
func (t *Tree) Hash(block uint32) (Hash, bool) {
	g := &t.geometry
	total := g.Total()
	if block >= total {
		return Hash{}, false
	}
	if block == total-1 {
		return t.root, true
	}
	level := g.level(block)
	i := block - g.first[level]
	p := t.find(level+1, i>>g.shift)
	if p == nil {
		return Hash{}, false
	}
	return p.hash(int(i & (1<<g.shift - 1))), true
}

// Page returns the bytes of a page, or false while it is not known. They are the tree's own: the caller must not change
// them.
func (t *Tree) Page(block uint32) ([]byte, bool) {
	p := t.at(block)
	if p == nil {
		return nil, false
	}
	return p.hashes, true
}

// IsZero says whether all bytes of a block are zero, and whether that is known yet.
func (t *Tree) IsZero(block uint32) (zero, known bool) {
	h, known := t.Hash(block)
	if !known || block >= t.geometry.Data() {
		return false, known
	}
	if block == t.geometry.Data()-1 {
		return h == t.lastZero, true
	}
	return h == t.zero, true
}

// AddPage makes a page known after verifying it against the page above. It keeps a copy of data. Adding a page again does
// nothing. The error wraps ErrNotPage, ErrNoParent or, when these are not the page's bytes, block.ErrCorrupt.
func (t *Tree) AddPage(number uint32, data []byte) error {
	return t.add(number, data, true)
}

// add is AddPage; without copying it keeps data itself.
func (t *Tree) add(number uint32, data []byte, copying bool) error {
	g := &t.geometry
	if number < g.Data() || number >= g.Total() {
		return fmt.Errorf("add block %d to the tree: %w", number, ErrNotPage)
	}
	want, ok := t.Hash(number)
	if !ok {
		return fmt.Errorf("add page %d to the tree: %w", number, ErrNoParent)
	}
	if len(data) != g.Len(number) || Sum(data) != want {
		return fmt.Errorf("add page %d to the tree: %w", number, block.ErrCorrupt)
	}
	if copying {
		data = append([]byte(nil), data...)
	}
	p := &page{hashes: data}
	if g.level(number) > 1 {
		p.below = make([]atomic.Pointer[page], len(data)/HashSize)
	}
	// Of two who add the same page the first wins, so that what was added below it stays.
	t.place(number).CompareAndSwap(nil, p)
	return nil
}

// at returns a page by its block number, nil if it is not known or no page.
func (t *Tree) at(number uint32) *page {
	g := &t.geometry
	if number < g.Data() || number >= g.Total() {
		return nil
	}
	level := g.level(number)
	return t.find(level, number-g.first[level])
}

// find returns page i of a level, nil if it is not known. It goes down from the top: two steps for most images.
func (t *Tree) find(level int, i uint32) *page {
	p := t.top.Load()
	for l := t.geometry.levels - 1; l >= level && p != nil; l-- {
		p = p.below[i>>(t.geometry.shift*uint(l-level))&(1<<t.geometry.shift-1)].Load()
	}
	return p
}

// place returns where the pointer to a page is kept. The page above must be known.
func (t *Tree) place(number uint32) *atomic.Pointer[page] {
	above, slot, ok := t.geometry.Parent(number)
	if !ok {
		return &t.top
	}
	return &t.at(above).below[slot]
}

func (p *page) hash(slot int) Hash { return Hash(p.hashes[slot*HashSize:]) }
