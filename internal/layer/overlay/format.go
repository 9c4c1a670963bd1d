package overlay

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/dnbd/dnbd/image"
)

// The format is docs/overlay-format.md. All numbers are little-endian.
const (
	magic   = "dnbd overlay\r\n\x1a\n"
	version = 2 // 1 was a bitmap without checksums

	headerSize = 4096
	headers    = 2

	// Offsets in a header.
	headerVersion  = 16
	headerBlock    = 20
	headerBase     = 24 // its size
	headerFile     = 32
	headerSeq      = 48
	headerSum      = 56
	headerOpen     = 64
	headerNameLen  = 68
	headerRevision = 72
	headerID       = 80
	headerBoot     = 112
	headerCreated  = 128
	headerWritten  = 136
	headerName     = 144
	headerChecksum = headerSector - checksumSize
	headerSector   = 512 // zeroes from here on: what a disk writes whole or not at all

	checksumSize = 8
	fileIDSize   = 16
	bootSize     = 16

	// A page of the map has pageSize bytes, and a group is its two places and the live page.
	pageSize  = 4096
	livePlace = 2
	groupSize = 3 * pageSize

	// Offsets in a page.
	pageSeq    = 8
	pageNumber = 16
	pageFile   = 24 // the first eight bytes of the file's id
	pageStates = 32

	// pageBlocks is how many blocks a page has the states of.
	pageBlocks = (pageSize - pageStates) * 4

	// maxBase bounds the size of a base, so that no sum overflows.
	maxBase = math.MaxInt64 / 2
)

// blocks is how many blocks size bytes have.
func blocks(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

// pages is how many pages the map of a base of size bytes has.
func pages(size int64) int64 { return (blocks(size) + pageBlocks - 1) / pageBlocks }

// pageOffset is where one of the places of a page begins.
func pageOffset(p int64, place int) int64 {
	return headers*headerSize + p*groupSize + int64(place)*pageSize
}

// dataOffset is where the blocks begin.
func dataOffset(size int64) int64 { return pageOffset(pages(size), 0) }

// Size is how large the scratch device of an overlay has to be, in bytes, over a base of size bytes.
func Size(size int64) int64 { return dataOffset(size) + blocks(size)*BlockSize }

// header is a header.
type header struct {
	base    Base
	file    [fileIDSize]byte // random, new with each overlay
	seq     uint64           // a later header has a higher one
	sum     uint64           // of the checksums of all pages
	open    bool             // a device has it open, or did when it died
	boot    [bootSize]byte   // the start of the machine that the live map is of
	created time.Time
	written time.Time // when this header was
}

// encode returns the bytes of h.
func (h *header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	le := binary.LittleEndian
	le.PutUint32(b[headerVersion:], version)
	le.PutUint32(b[headerBlock:], BlockSize)
	le.PutUint64(b[headerBase:], uint64(h.base.Size))
	copy(b[headerFile:], h.file[:])
	le.PutUint64(b[headerSeq:], h.seq)
	le.PutUint64(b[headerSum:], h.sum)
	if h.open {
		b[headerOpen] = 1
	}
	name := h.base.Name[:min(len(h.base.Name), image.MaxNameLen)]
	le.PutUint32(b[headerNameLen:], uint32(len(name)))
	le.PutUint64(b[headerRevision:], h.base.Revision)
	copy(b[headerID:], h.base.ID[:])
	copy(b[headerBoot:], h.boot[:])
	le.PutUint64(b[headerCreated:], uint64(h.created.Unix()))
	le.PutUint64(b[headerWritten:], uint64(h.written.Unix()))
	copy(b[headerName:], name)
	le.PutUint64(b[headerChecksum:], xxh3.Hash(b[:headerChecksum]))
	return b
}

// decodeHeader is the inverse of encode. Its errors are ErrFormat, ErrVersion and ErrDamaged.
func decodeHeader(b []byte) (*header, error) {
	le := binary.LittleEndian
	if len(b) != headerSize || string(b[:len(magic)]) != magic {
		return nil, ErrFormat
	}
	if v := le.Uint32(b[headerVersion:]); v != version {
		return nil, fmt.Errorf("%w: %d; this program knows version %d", ErrVersion, v, version)
	}
	if le.Uint64(b[headerChecksum:]) != xxh3.Hash(b[:headerChecksum]) || !allZero(b[headerSector:]) {
		return nil, fmt.Errorf("%w: the checksum of a header is wrong", ErrDamaged)
	}
	if size := le.Uint32(b[headerBlock:]); size != BlockSize {
		return nil, fmt.Errorf("%w: its blocks have %d bytes", ErrVersion, size)
	}
	size, open, nameLen := le.Uint64(b[headerBase:]), le.Uint32(b[headerOpen:]), le.Uint32(b[headerNameLen:])
	if size > maxBase || open > 1 || nameLen > image.MaxNameLen {
		return nil, fmt.Errorf("%w: a header has numbers that cannot be", ErrDamaged)
	}
	h := &header{
		base: Base{
			Name:     string(b[headerName:][:nameLen]),
			Revision: le.Uint64(b[headerRevision:]),
			ID:       image.ID(b[headerID:]),
			Size:     int64(size),
		},
		file:    [fileIDSize]byte(b[headerFile:]),
		seq:     le.Uint64(b[headerSeq:]),
		sum:     le.Uint64(b[headerSum:]),
		open:    open == 1,
		boot:    [bootSize]byte(b[headerBoot:]),
		created: time.Unix(int64(le.Uint64(b[headerCreated:])), 0),
		written: time.Unix(int64(le.Uint64(b[headerWritten:])), 0),
	}
	return h, nil
}

// encodePage returns the bytes of page p of the file, with its checksum.
func encodePage(file [fileIDSize]byte, p int64, seq uint64, states []byte) (b []byte, sum uint64) {
	b = make([]byte, pageSize)
	binary.LittleEndian.PutUint64(b[pageSeq:], seq)
	binary.LittleEndian.PutUint64(b[pageNumber:], uint64(p))
	copy(b[pageFile:pageStates], file[:])
	copy(b[pageStates:], states)
	sum = xxh3.Hash(b[checksumSize:])
	binary.LittleEndian.PutUint64(b, sum)
	return b, sum
}

// decodePage returns the sequence number and the checksum of page p of the file, or that these bytes are not that page.
func decodePage(file [fileIDSize]byte, p int64, b []byte) (seq, sum uint64, ok bool) {
	le := binary.LittleEndian
	sum = le.Uint64(b)
	ok = sum == xxh3.Hash(b[checksumSize:]) && le.Uint64(b[pageNumber:]) == uint64(p) &&
		string(b[pageFile:pageStates]) == string(file[:pageStates-pageFile])
	return le.Uint64(b[pageSeq:]), sum, ok
}

// thisBoot is the id of the start of this machine, which Linux tells. Where it is not known it is zero.
func thisBoot() (id [bootSize]byte) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(text) > 2*bootSize+5 { // four dashes and a newline
		return id
	}
	digits := strings.ReplaceAll(strings.TrimSpace(string(text)), "-", "")
	if n, err := hex.Decode(id[:], []byte(digits)); err != nil || n != bootSize {
		return [bootSize]byte{}
	}
	return id
}
