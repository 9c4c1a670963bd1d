// Package image describes an immutable image of fixed-size blocks, and names it by a tree of hashes over them.
//
// Geometry numbers the blocks: the data, and behind it the pages of the tree, which are blocks too. Tree holds as many of
// those pages as are known, each verified against the one above it. A sidecar file keeps the descriptor and the tree
// beside the image, and Image is the two opened together.
package image

import (
	"encoding/hex"
	"fmt"

	zeebo "github.com/zeebo/blake3"

	"github.com/dnbd/dnbd/internal/blake3"
)

// HashSize is the length of a hash in bytes, and so of each entry of a page of the tree.
const HashSize = 32

// AlgorithmBLAKE3 is the number that stands for BLAKE3-256, the only hash algorithm so far, in ids and files.
const AlgorithmBLAKE3 = 1

// Hash is the BLAKE3-256 hash of a block's bytes.
type Hash [HashSize]byte

// String returns the hash as 64 hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Sum returns the hash of p.
func Sum(p []byte) Hash { return blake3.Sum256(p) }

// ZeroHash returns the hash of n zero bytes. It hashes them: who needs it often keeps it, as Tree does.
func ZeroHash(n int) Hash {
	var zeros [8192]byte
	h := zeebo.New()
	for n > 0 {
		run := min(n, len(zeros))
		h.Write(zeros[:run])
		n -= run
	}
	var sum Hash
	h.Sum(sum[:0])
	return sum
}

// ID names an image by its content: images of equal bytes and block size have equal ids, wherever they were hashed.
type ID [HashSize]byte

// String returns the id as 64 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads an id of 64 hexadecimal digits, in upper or lower case.
func ParseID(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != HashSize {
		return ID{}, fmt.Errorf("image id %.80q: want %d hexadecimal digits", s, 2*HashSize)
	}
	return ID(b), nil
}
