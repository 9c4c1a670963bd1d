package image

import (
	"encoding/binary"
	"errors"

	"github.com/zeebo/xxh3"
)

// A block that is read is compared with a checksum of the bytes that were hashed, XXH3 of 64 bits, at several times the speed of the
// hash. Bytes that changed by accident, or by a program that wrote to the file, pass it once in 2^64 times. It protects nothing
// against somebody who chooses bytes to that end: he can make a server send what its clients then refuse.

// Checksums are XXH3-64 of an image's data blocks, by number.
type Checksums []uint64

const checksumSize = 8 // bytes

// match says whether p is what was hashed as this block. A block without a checksum does not match.
func (c Checksums) match(number uint32, p []byte) bool {
	return int64(number) < int64(len(c)) && xxh3.Hash(p) == c[number]
}

// encode returns the checksums and their hash.
func (c Checksums) encode() []byte {
	p := make([]byte, 0, len(c)*checksumSize+HashSize)
	for _, sum := range c {
		p = binary.BigEndian.AppendUint64(p, sum)
	}
	h := Sum(p)
	return append(p, h[:]...)
}

// decodeChecksums is the inverse of encode.
func decodeChecksums(p []byte) (Checksums, error) {
	p, want := p[:len(p)-HashSize], Hash(p[len(p)-HashSize:])
	if Sum(p) != want {
		return nil, errors.New("the blocks' checksums do not match their hash")
	}
	c := make(Checksums, len(p)/checksumSize)
	for i := range c {
		c[i] = binary.BigEndian.Uint64(p[i*checksumSize:])
	}
	return c, nil
}
