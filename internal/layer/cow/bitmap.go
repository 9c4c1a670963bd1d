package cow

import "math/bits"

// bitmap has a bit for each block.
type bitmap []uint64

func newBitmap(n int64) bitmap { return make(bitmap, (n+63)/64) }

func (m bitmap) has(i int64) bool { return m[i/64]>>(i%64)&1 != 0 }

// set sets the bits from first to before end.
func (m bitmap) set(first, end int64) {
	for first < end {
		n := min(64-first%64, end-first)
		m[first/64] |= ^uint64(0) >> (64 - n) << (first % 64)
		first += n
	}
}

// run returns where the run of like bits that begins at first ends, or limit if it goes on there.
func (m bitmap) run(first, limit int64) int64 {
	same := -(m[first/64] >> (first % 64) & 1) // all bits like the first one
	for i := first; i < limit; i = (i/64 + 1) * 64 {
		if other := (m[i/64] ^ same) >> (i % 64); other != 0 {
			return min(i+int64(bits.TrailingZeros64(other)), limit)
		}
	}
	return limit
}
