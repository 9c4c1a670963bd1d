package cache

import "fmt"

// NewMemory returns a cache that holds at most capacity bytes of entries of up to slotSize bytes each, in memory that is
// taken as it fills and is not the garbage collector's. The index takes up to 64 bytes an entry besides.
func NewMemory(capacity int64, slotSize int) (*Cache, error) {
	if err := checkSlotSize(slotSize); err != nil {
		return nil, fmt.Errorf("make memory cache: %w", err)
	}
	slots := capacity / int64(slotSize)
	if slots < MinSlots || slots > maxSlots {
		return nil, fmt.Errorf("make memory cache of %d bytes: %d slots of %d bytes fit; choose %d bytes or more",
			capacity, max(slots, 0), slotSize, MinSlots*slotSize)
	}
	data, release, err := reserve(slots * int64(slotSize))
	if err != nil {
		return nil, fmt.Errorf("make memory cache of %d bytes: %w", capacity, err)
	}
	st := &memoryStore{data: data, slotSize: slotSize, release: release}
	return newCache(st, uint32(slots), slotSize, nil), nil
}

// memoryStore is slots in memory, one after the other. It keeps no records: it ends with the process.
type memoryStore struct {
	data     []byte
	slotSize int
	release  func() error
}

func (m *memoryStore) read(slot uint32, p []byte, off int) error {
	copy(p, m.data[int(slot)*m.slotSize+off:])
	return nil
}

func (m *memoryStore) write(slot uint32, p []byte) error {
	copy(m.data[int(slot)*m.slotSize:], p)
	return nil
}

func (m *memoryStore) note(uint32, record) error { return nil }

func (m *memoryStore) close() error {
	m.data = nil
	return m.release()
}
