package cache

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

// FuzzHeader: a header is refused, or it is one that encodes to the same bytes and describes a file that can exist.
func FuzzHeader(f *testing.F) {
	page := make([]byte, headerSize)
	for _, h := range []header{
		{slotSize: MinSlotSize, slots: MinSlots, fileSize: sizeFor(MinSlots)},
		{slotSize: 64 << 10, slots: 511, fileSize: 32 << 20, id: [16]byte{1, 2, 3}},
	} {
		h.encode(page)
		f.Add(bytes.Clone(page[:headReserved]))
	}
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		// As it came, and with a checksum that is right, which the fuzzer would not find.
		if h, err := decodeHeader(b); err == nil {
			t.Fatalf("%d bytes taken for a header: %+v", len(b), h)
		}
		page := make([]byte, headerSize)
		copy(page, b)
		binary.LittleEndian.PutUint32(page[headCRC:], crc32.Checksum(page[:headCRC], castagnoli))
		h, err := decodeHeader(page)
		if err != nil {
			return
		}
		again := make([]byte, headerSize)
		if h.encode(again); !bytes.Equal(again, page) {
			t.Fatalf("%+v encodes to other bytes", h)
		}
		if end := dataOffset(int64(h.slots)) + int64(h.slots)*int64(h.slotSize); end > h.fileSize || h.slots < MinSlots {
			t.Fatalf("%+v ends at %d", h, end)
		}
	})
}

// FuzzRecord: a record is refused, or it encodes to the same bytes and fits its slot.
func FuzzRecord(f *testing.F) {
	coder := newRecordCoder(&header{slotSize: MinSlotSize, id: [16]byte{9}})
	b := make([]byte, recordSize)
	for _, r := range []record{{}, {length: 1}, {key: Key{1, 2}, length: MinSlotSize, reads: 2, seq: 1 << 60}} {
		coder.encode(b, 3, &r)
		f.Add(bytes.Clone(b), uint32(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, slot uint32) {
		rec := make([]byte, recordSize)
		copy(rec, b)
		if !allZero(rec) {
			binary.LittleEndian.PutUint32(rec[recordCRC:], coder.checksum(rec))
		}
		r, err := coder.decode(rec, slot)
		if err != nil {
			return
		}
		again := make([]byte, recordSize)
		if coder.encode(again, slot, &r); !bytes.Equal(again, rec) {
			t.Fatalf("%+v encodes to other bytes", r)
		}
		if r.length > MinSlotSize || r.reads > maxReads {
			t.Fatalf("taken: %+v", r)
		}
	})
}

// FuzzTable opens a cache whose table holds any bytes, with checksums that are right, and uses it.
func FuzzTable(f *testing.F) {
	const slots = 12
	h := header{slotSize: MinSlotSize, slots: slots, fileSize: sizeFor(slots)}
	coder := newRecordCoder(&h)
	table := make([]byte, slots*recordSize)
	for i := range uint32(6) {
		key, data := block(int(i), MinSlotSize)
		coder.encode(table[i*recordSize:][:recordSize], i, &record{key: key, length: uint32(len(data)), reads: uint8(i % 3), seq: 7})
	}
	f.Add(bytes.Clone(table))
	copy(table[recordSize:2*recordSize], table) // one key twice
	f.Add(table)
	f.Fuzz(func(t *testing.T, b []byte) {
		file := make([]byte, sizeFor(slots))
		h.encode(file)
		table := file[headerSize:][:slots*recordSize]
		copy(table, b)
		for i := range uint32(slots) {
			if rec := table[i*recordSize:][:recordSize]; !allZero(rec) {
				binary.LittleEndian.PutUint32(rec[recordSlot:], i)
				binary.LittleEndian.PutUint32(rec[recordCRC:], coder.checksum(rec))
			}
			_, data := block(int(i), MinSlotSize)
			copy(file[dataOffset(slots)+int64(i)*MinSlotSize:], data)
		}
		path := filepath.Join(t.TempDir(), "cache")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		c := mustOpen(t, path, nil)
		defer closeCache(t, c)
		checkInvariants(t, c)
		readable(t, c, 0, slots)
		checkInvariants(t, c)
		for i := range 2 * slots {
			put(c, 100+i, i%2 == 0)
		}
		checkInvariants(t, c)
		readable(t, c, 100, 100+2*slots)
	})
}
