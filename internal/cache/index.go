package cache

import (
	"encoding/binary"
	"math/bits"
)

// index finds the slot of a key: a hash table with one bucket per slot, chained through the slots. Keys are hashes
// already, so the first 8 bytes serve as they are.
type index struct {
	slots []slot
	heads []ref // by bucket
}

func newIndex(slots uint32) index {
	return index{slots: make([]slot, slots), heads: make([]ref, slots)}
}

// bucket spreads keys evenly over any number of buckets: the high half of a product needs no division.
func (x *index) bucket(key *Key) *ref {
	hi, _ := bits.Mul64(binary.LittleEndian.Uint64(key[:8]), uint64(len(x.heads)))
	return &x.heads[hi]
}

// find returns the slot that holds key, whatever its state.
func (x *index) find(key *Key) (uint32, bool) {
	for r := *x.bucket(key); r != 0; r = x.slots[r-1].chain {
		if x.slots[r-1].key == *key {
			return uint32(r - 1), true
		}
	}
	return 0, false
}

// add enters slot i under key, which must not be there.
func (x *index) add(i uint32, key *Key) {
	b := x.bucket(key)
	x.slots[i].key = *key
	x.slots[i].chain = *b
	*b = ref(i + 1)
}

// remove takes slot i, which must be there, out.
func (x *index) remove(i uint32) {
	at := x.bucket(&x.slots[i].key)
	for *at != ref(i+1) {
		at = &x.slots[*at-1].chain
	}
	*at = x.slots[i].chain
	x.slots[i].chain = 0
}
