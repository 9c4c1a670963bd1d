package cache

import (
	"encoding/binary"
	"math/bits"
)

// ghostWays is the number of keys in a bucket of a ghost. Each bucket is a FIFO of its own, so together they forget in
// roughly the order in which they learnt.
const ghostWays = 8

// ghost remembers about as many lately evicted keys as there are slots, by 4 bytes of each. Taking one key for another,
// which happens once in 2^29 times, only misjudges an entry's worth.
type ghost [][ghostWays]uint32

func newGhost(slots uint32) ghost {
	return make(ghost, (slots-1)/ghostWays+1)
}

// place returns key's bucket and the mark it has there, which is never 0.
func (g ghost) place(key *Key) (*[ghostWays]uint32, uint32) {
	hi, _ := bits.Mul64(binary.LittleEndian.Uint64(key[8:16]), uint64(len(g)))
	return &g[hi], binary.LittleEndian.Uint32(key[16:20]) | 1
}

// add remembers key; the oldest of its bucket is forgotten.
func (g ghost) add(key *Key) {
	b, mark := g.place(key)
	copy(b[1:], b[:])
	b[0] = mark
}

// has says whether key is remembered.
func (g ghost) has(key *Key) bool {
	b, mark := g.place(key)
	for _, m := range b {
		if m == mark {
			return true
		}
	}
	return false
}
