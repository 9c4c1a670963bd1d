package image

import (
	"sync/atomic"

	"github.com/zeebo/xxh3"
)

// A block that was compared with its hash once is compared with a checksum of what was hashed when it is read again: XXH3 of 64
// bits, at several times the speed. Bytes that changed by accident or by a program that wrote to the file pass it once in
// 2^64 times. It protects nothing against somebody who chooses bytes to that end; he can make a server send what its
// clients then refuse.

// maxQuickSums bounds the memory for them, 8 bytes each: 32 MiB, for images of up to 256 GiB in blocks of 64 KiB. Blocks beyond
// are hashed at each read.
const maxQuickSums = 4 << 20

// quickSums are the checksums of the data blocks that were verified so far, 0 for the others.
type quickSums []atomic.Uint64

func newQuickSums(g Geometry) quickSums { return make(quickSums, min(g.Data(), maxQuickSums)) }

// note remembers a block that was verified.
func (q quickSums) note(number uint32, p []byte) {
	if int(number) < len(q) {
		q[number].Store(xxh3.Hash(p))
	}
}

// match says whether p is what was verified as this block before.
func (q quickSums) match(number uint32, p []byte) bool {
	if int(number) >= len(q) {
		return false
	}
	sum := q[number].Load()
	return sum != 0 && xxh3.Hash(p) == sum
}
