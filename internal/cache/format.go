package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The numbers of docs/cache-format.md. Offsets and sizes in bytes, integers little-endian.
const (
	magic   = "DNBDCACH"
	version = 1

	headerSize = 4096 // also the offset of the table
	recordSize = 64

	headVersion  = 8
	headSlotSize = 12
	headSlots    = 16
	headTable    = 24
	headData     = 32
	headFileSize = 40
	headID       = 48
	headReserved = 64
	headCRC      = headerSize - 4

	recordLength   = 32
	recordSlot     = 36
	recordSeq      = 40
	recordReads    = 48
	recordReserved = 49
	recordCRC      = recordSize - 4
)

// Why a header or a record is not taken.
var (
	errHeader   = errors.New("unusable header")
	errMagic    = errors.New("no magic number")
	errVersion  = errors.New("another version of the format")
	errChecksum = errors.New("damaged: wrong checksum")
	errGeometry = errors.New("sizes and offsets that do not fit together")
	errRecord   = errors.New("damaged record")
	errHash     = errors.New("bytes do not match their hash")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the first page of a cache file.
type header struct {
	slotSize int
	slots    uint32
	fileSize int64    // of the file as it was formatted
	id       [16]byte // random, new with each formatting
}

// slotsIn is the number of slots that a file of size bytes has room for.
func slotsIn(size int64, slotSize int) int64 {
	n := (size - headerSize) / int64(slotSize+recordSize)
	for n > 0 && dataOffset(n)+n*int64(slotSize) > size {
		n--
	}
	return max(n, 0)
}

// dataOffset is where the slots begin: after the table, on a page of their own.
func dataOffset(slots int64) int64 {
	return headerSize + (slots*recordSize+MinSlotSize-1)/MinSlotSize*MinSlotSize
}

// encode writes h to page, of headerSize bytes.
func (h *header) encode(page []byte) {
	clear(page)
	copy(page, magic)
	le := binary.LittleEndian
	le.PutUint32(page[headVersion:], version)
	le.PutUint32(page[headSlotSize:], uint32(h.slotSize))
	le.PutUint64(page[headSlots:], uint64(h.slots))
	le.PutUint64(page[headTable:], headerSize)
	le.PutUint64(page[headData:], uint64(dataOffset(int64(h.slots))))
	le.PutUint64(page[headFileSize:], uint64(h.fileSize))
	copy(page[headID:], h.id[:])
	le.PutUint32(page[headCRC:], crc32.Checksum(page[:headCRC], castagnoli))
}

// decodeHeader reads a file's first page. It fails with errMagic, errVersion, errChecksum or errGeometry.
func decodeHeader(page []byte) (header, error) {
	le := binary.LittleEndian
	switch {
	case len(page) != headerSize || string(page[:len(magic)]) != magic:
		return header{}, errMagic
	case le.Uint32(page[headVersion:]) != version:
		return header{}, fmt.Errorf("%w: %d, this program knows %d", errVersion, le.Uint32(page[headVersion:]), version)
	case le.Uint32(page[headCRC:]) != crc32.Checksum(page[:headCRC], castagnoli):
		return header{}, errChecksum
	}
	h := header{
		slotSize: int(le.Uint32(page[headSlotSize:])),
		slots:    uint32(le.Uint64(page[headSlots:])),
		fileSize: int64(le.Uint64(page[headFileSize:])),
		id:       [16]byte(page[headID:]),
	}
	if checkSlotSize(h.slotSize) != nil || h.fileSize < 0 || h.slots < MinSlots ||
		slotsIn(h.fileSize, h.slotSize) != int64(le.Uint64(page[headSlots:])) ||
		le.Uint64(page[headTable:]) != headerSize ||
		le.Uint64(page[headData:]) != uint64(dataOffset(int64(h.slots))) ||
		!allZero(page[headReserved:headCRC]) {
		return header{}, errGeometry
	}
	return h, nil
}

// record says what a slot holds. The zero record stands for an empty slot.
type record struct {
	key    Key
	length uint32 // of the entry, in bytes
	reads  uint8  // see slot.reads
	seq    uint64 // higher in records written later
}

// recordCoder encodes the records of one file. Their checksums cover the file's id too, so that one from before the last
// formatting is a damaged one.
type recordCoder struct {
	slotSize int
	idCRC    uint32
}

func newRecordCoder(h *header) recordCoder {
	return recordCoder{slotSize: h.slotSize, idCRC: crc32.Checksum(h.id[:], castagnoli)}
}

// encode writes the record of slot to b, of recordSize bytes.
func (c recordCoder) encode(b []byte, slot uint32, r *record) {
	clear(b)
	if r.length == 0 {
		return
	}
	le := binary.LittleEndian
	copy(b, r.key[:])
	le.PutUint32(b[recordLength:], r.length)
	le.PutUint32(b[recordSlot:], slot)
	le.PutUint64(b[recordSeq:], r.seq)
	b[recordReads] = r.reads
	le.PutUint32(b[recordCRC:], c.checksum(b))
}

// decode reads the record of slot from b, of recordSize bytes. It fails with errRecord.
func (c recordCoder) decode(b []byte, slot uint32) (record, error) {
	if allZero(b) {
		return record{}, nil
	}
	le := binary.LittleEndian
	r := record{
		key:    Key(b),
		length: le.Uint32(b[recordLength:]),
		reads:  b[recordReads],
		seq:    le.Uint64(b[recordSeq:]),
	}
	if le.Uint32(b[recordCRC:]) != c.checksum(b) || le.Uint32(b[recordSlot:]) != slot ||
		r.length == 0 || int64(r.length) > int64(c.slotSize) || r.reads > maxReads ||
		!allZero(b[recordReserved:recordCRC]) {
		return record{}, errRecord
	}
	return r, nil
}

func (c recordCoder) checksum(b []byte) uint32 {
	return crc32.Update(c.idCRC, castagnoli, b[:recordCRC])
}

// allZero says whether b has only zero bytes: the first is, and each equals the next.
func allZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
