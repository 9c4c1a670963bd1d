package image

import (
	"fmt"
	"math"
	"math/bits"
)

// The block sizes that an image may have, in bytes; each power of two between them is one.
const (
	MinBlockSize     = 4 << 10
	DefaultBlockSize = 64 << 10
	MaxBlockSize     = 1 << 20
)

// maxLevels is the most levels a tree can have: a page of the smallest block size has 128 hashes, and five levels of
// those are above 2^35 blocks.
const maxLevels = 5

// Geometry says how an image is divided into blocks and how they are numbered.
//
// Blocks 0 to Data()-1 are the image's bytes in order. Behind them come the pages of the tree's first level, each the
// hashes of a run of up to BlockSize/HashSize data blocks; then those of the second, over the first's pages; and so on to
// the level that is a single page, whose hash is the root. There is always a first level. The last data block, and the
// last page of a level, are as short as what they hold.
//
// Geometry is a value without pointers: copy and compare it. The zero Geometry has no blocks.
type Geometry struct {
	size      int64
	blockSize int
	shift     uint // log2 of the hashes in a page
	levels    int  // of pages
	// first[l] is the first block of level l, 0 being the data; first[levels+1] is the number of all blocks.
	first [maxLevels + 2]uint32
}

// NewGeometry divides size bytes into blocks of blockSize. Its errors wrap ErrSize, ErrBlockSize or ErrTooManyBlocks.
func NewGeometry(size int64, blockSize int) (Geometry, error) {
	if size <= 0 {
		return Geometry{}, fmt.Errorf("%w: %d bytes", ErrSize, size)
	}
	if blockSize < MinBlockSize || blockSize > MaxBlockSize || blockSize&(blockSize-1) != 0 {
		return Geometry{}, fmt.Errorf("%w: %d is not a power of two from %d to %d",
			ErrBlockSize, blockSize, MinBlockSize, MaxBlockSize)
	}
	g := Geometry{size: size, blockSize: blockSize, shift: uint(bits.TrailingZeros(uint(blockSize / HashSize)))}
	total, n := int64(0), (size-1)/int64(blockSize)+1
	for level := 0; ; level++ {
		total += n
		if total > math.MaxUint32 {
			return Geometry{}, fmt.Errorf("%w: %d bytes in blocks of %d; use larger blocks", ErrTooManyBlocks, size, blockSize)
		}
		g.first[level+1] = uint32(total)
		if level > 0 && n == 1 {
			g.levels = level
			return g, nil
		}
		n = (n-1)>>g.shift + 1
	}
}

// Size is the length of the image in bytes.
func (g Geometry) Size() int64 { return g.size }

// BlockSize is the length in bytes of a block that is not the last of its level.
func (g Geometry) BlockSize() int { return g.blockSize }

// Data is the number of data blocks.
func (g Geometry) Data() uint32 { return g.first[1] }

// Total is the number of data blocks and pages; blocks are numbered from 0 to Total()-1.
func (g Geometry) Total() uint32 {
	if g.levels == 0 {
		return 0
	}
	return g.first[g.levels+1]
}

// Len is the length of a block in bytes, 0 when there is no such block.
func (g Geometry) Len(block uint32) int {
	switch {
	case block >= g.Total():
		return 0
	case block < g.Data():
		return int(min(int64(g.blockSize), g.size-g.Offset(block)))
	}
	level := g.level(block)
	below := g.first[level] - g.first[level-1]
	done := (block - g.first[level]) << g.shift
	return HashSize * int(min(below-done, 1<<g.shift))
}

// Offset is where a data block starts in the image, in bytes.
func (g Geometry) Offset(block uint32) int64 { return int64(block) * int64(g.blockSize) }

// Parent returns the page that holds the hash of block and which of the page's hashes it is. The top page has none, and
// neither has a block that does not exist.
func (g Geometry) Parent(block uint32) (page uint32, slot int, ok bool) {
	if total := g.Total(); block >= total || block == total-1 {
		return 0, 0, false
	}
	level := g.level(block)
	i := block - g.first[level]
	return g.first[level+1] + i>>g.shift, int(i & (1<<g.shift - 1)), true
}

// level is the level of a block that exists.
func (g Geometry) level(block uint32) int {
	level := 0
	for block >= g.first[level+1] {
		level++
	}
	return level
}
