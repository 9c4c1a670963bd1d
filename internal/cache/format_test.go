package cache

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
)

func TestAHeaderMustFitTogether(t *testing.T) {
	h := header{slotSize: MinSlotSize, slots: 16, fileSize: sizeFor(16)}
	le := binary.LittleEndian
	for _, c := range []struct {
		name  string
		spoil func(page []byte)
		want  error
	}{
		{"nothing wrong", func([]byte) {}, nil},
		{"magic", func(p []byte) { p[0]++ }, errMagic},
		{"version", func(p []byte) { le.PutUint32(p[headVersion:], 2) }, errVersion},
		{"slot size 0", func(p []byte) { le.PutUint32(p[headSlotSize:], 0) }, errGeometry},
		{"slot size of no whole pages", func(p []byte) { le.PutUint32(p[headSlotSize:], 4100) }, errGeometry},
		{"huge slot size", func(p []byte) { le.PutUint32(p[headSlotSize:], 1<<31) }, errGeometry},
		{"fewer slots", func(p []byte) { le.PutUint64(p[headSlots:], 15) }, errGeometry},
		{"more slots", func(p []byte) { le.PutUint64(p[headSlots:], 17) }, errGeometry},
		{"slots beyond 32 bits", func(p []byte) { le.PutUint64(p[headSlots:], 1<<32+16) }, errGeometry},
		{"too few slots", func(p []byte) {
			le.PutUint64(p[headSlots:], 7)
			le.PutUint64(p[headFileSize:], uint64(sizeFor(7)))
		}, errGeometry},
		{"table elsewhere", func(p []byte) { le.PutUint64(p[headTable:], 8192) }, errGeometry},
		{"data elsewhere", func(p []byte) { le.PutUint64(p[headData:], 4096) }, errGeometry},
		{"negative size", func(p []byte) { le.PutUint64(p[headFileSize:], 1<<63) }, errGeometry},
		{"something after the id", func(p []byte) { p[headReserved] = 1 }, errGeometry},
		{"something before the checksum", func(p []byte) { p[headCRC-1] = 1 }, errGeometry},
	} {
		page := make([]byte, headerSize)
		h.encode(page)
		c.spoil(page)
		le.PutUint32(page[headCRC:], crc32.Checksum(page[:headCRC], castagnoli))
		if _, err := decodeHeader(page); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	page := make([]byte, headerSize)
	h.encode(page)
	page[headCRC]++
	if _, err := decodeHeader(page); !errors.Is(err, errChecksum) {
		t.Errorf("wrong checksum: %v", err)
	}
	for _, n := range []int{0, 8, headerSize - 1} {
		if _, err := decodeHeader(page[:n]); !errors.Is(err, errMagic) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestARecordMustFitItsSlot(t *testing.T) {
	coder := newRecordCoder(&header{slotSize: MinSlotSize, id: [16]byte{1}})
	le := binary.LittleEndian
	for _, c := range []struct {
		name  string
		spoil func(b []byte)
		ok    bool
	}{
		{"nothing wrong", func([]byte) {}, true},
		{"the slot's full length", func(b []byte) { le.PutUint32(b[recordLength:], MinSlotSize) }, true},
		{"longer than the slot", func(b []byte) { le.PutUint32(b[recordLength:], MinSlotSize+1) }, false},
		{"longest of all", func(b []byte) { le.PutUint32(b[recordLength:], 1<<32-1) }, false},
		{"no length", func(b []byte) { le.PutUint32(b[recordLength:], 0) }, false},
		{"another slot", func(b []byte) { le.PutUint32(b[recordSlot:], 4) }, false},
		{"too many reads", func(b []byte) { b[recordReads] = maxReads + 1 }, false},
		{"something after the reads", func(b []byte) { b[recordReserved] = 1 }, false},
		{"something before the checksum", func(b []byte) { b[recordCRC-1] = 1 }, false},
	} {
		b := make([]byte, recordSize)
		coder.encode(b, 3, &record{key: Key{1}, length: 100, reads: 2, seq: 7})
		c.spoil(b)
		le.PutUint32(b[recordCRC:], coder.checksum(b))
		if _, err := coder.decode(b, 3); (err == nil) != c.ok {
			t.Errorf("%s: %v, want ok %v", c.name, err, c.ok)
		}
	}
}

func TestSlotsFillTheFileAndNoMore(t *testing.T) {
	for _, slotSize := range []int{MinSlotSize, 64 << 10, MaxSlotSize} {
		for _, size := range []int64{
			0, 1, 4096, 8192, 532479, 532480, 1 << 20, 1<<20 + 1, 32 << 20, 10_000_000_007, 1 << 40, 1 << 62,
		} {
			n := slotsIn(size, slotSize)
			end := func(n int64) int64 { return dataOffset(n) + n*int64(slotSize) }
			if n < 0 || n > 0 && end(n) > size || end(n+1) <= size {
				t.Errorf("%d slots of %d bytes in %d bytes: they end at %d, with one more at %d", n, slotSize, size, end(n), end(n+1))
			}
		}
	}
}
