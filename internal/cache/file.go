package cache

import (
	"fmt"
	"os"
	"sync"
)

// fileStore is slots and their records in a file. The page cache of the system is the tier of memory above it.
type fileStore struct {
	f       *os.File
	header  header
	coder   recordCoder
	data    int64     // offset of slot 0
	records sync.Pool // *[recordSize]byte
}

func newFileStore(f *os.File, h header) *fileStore {
	st := &fileStore{f: f, header: h, coder: newRecordCoder(&h), data: dataOffset(int64(h.slots))}
	st.records.New = func() any { return new([recordSize]byte) }
	return st
}

// offset is where the slot begins.
func (s *fileStore) offset(slot uint32) int64 { return s.data + int64(slot)*int64(s.header.slotSize) }

func (s *fileStore) read(slot uint32, p []byte, off int) error {
	if _, err := s.f.ReadAt(p, s.offset(slot)+int64(off)); err != nil {
		return fmt.Errorf("read slot %d of cache: %w", slot, err)
	}
	return nil
}

func (s *fileStore) write(slot uint32, p []byte) error {
	if _, err := s.f.WriteAt(p, s.offset(slot)); err != nil {
		return fmt.Errorf("write slot %d of cache: %w", slot, err)
	}
	return nil
}

func (s *fileStore) note(slot uint32, r record) error {
	b := s.records.Get().(*[recordSize]byte)
	defer s.records.Put(b)
	s.coder.encode(b[:], slot, &r)
	if _, err := s.f.WriteAt(b[:], headerSize+int64(slot)*recordSize); err != nil {
		return fmt.Errorf("write record %d of cache: %w", slot, err)
	}
	return nil
}

// close closes the file, which also gives up its lock.
func (s *fileStore) close() error {
	if err := s.f.Close(); err != nil {
		return fmt.Errorf("close cache: %w", err)
	}
	return nil
}

// readTable calls each for every record of the table that is not that of an empty slot, in the order of slots. err is
// errRecord for a damaged one.
func (s *fileStore) readTable(each func(slot uint32, r record, err error)) error {
	const chunk = 1 << 20
	buf := make([]byte, min(chunk, int64(s.header.slots)*recordSize))
	for first := int64(0); first < int64(s.header.slots); first += chunk / recordSize {
		b := buf[:min(int64(len(buf)), (int64(s.header.slots)-first)*recordSize)]
		if _, err := s.f.ReadAt(b, headerSize+first*recordSize); err != nil {
			return fmt.Errorf("read table of cache %s: %w", s.f.Name(), err)
		}
		for i := range len(b) / recordSize {
			slot := uint32(first) + uint32(i)
			r, err := s.coder.decode(b[i*recordSize:(i+1)*recordSize], slot)
			if err != nil || r.length != 0 {
				each(slot, r, err)
			}
		}
	}
	return nil
}
