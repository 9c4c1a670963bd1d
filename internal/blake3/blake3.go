// Package blake3 hashes blocks by BLAKE3-256, with the library that does it quickest on the machine at hand.
//
// Every client hashes every block that it keeps, which is a third of its work. The hash of a block of a power of two bytes is the root of
// a tree that is whole, and where the processor has vectors of 512 bits lukechampine.com/blake3/guts makes the subtrees of 16 chunks in
// two thirds of the time that github.com/zeebo/blake3 takes, which is the quicker one for all else.
package blake3

import (
	zeebo "github.com/zeebo/blake3"
	"golang.org/x/sys/cpu"
	"lukechampine.com/blake3/guts"
)

// span is the bytes of a subtree that is made at once.
const span = guts.MaxSIMD * guts.ChunkSize

// Sum256 returns the hash of p.
func Sum256(p []byte) [32]byte {
	if n := len(p); cpu.X86.HasAVX512F && n >= span && n&(n-1) == 0 {
		return sumWhole(p)
	}
	return zeebo.Sum256(p)
}

// sumWhole is Sum256 of a power of two bytes, at least span.
func sumWhole(p []byte) [32]byte {
	root := subtree(p, 0)
	root.Flags |= guts.FlagRoot
	sum := guts.WordsToBytes(guts.CompressNode(root))
	return [32]byte(sum[:])
}

// subtree returns the root of the tree over p, whose first chunk has the number first.
func subtree(p []byte, first uint64) guts.Node {
	if len(p) == span {
		return guts.CompressBuffer((*[span]byte)(p), span, &guts.IV, first, 0)
	}
	half := len(p) / 2
	left, right := subtree(p[:half], first), subtree(p[half:], first+uint64(half/guts.ChunkSize))
	return guts.ParentNode(guts.ChainingValue(left), guts.ChainingValue(right), &guts.IV, 0)
}
