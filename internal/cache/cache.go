// Package cache keeps blocks under the hash of their bytes, in memory or in a file of fixed size.
//
// # Design
//
// One Cache is an index and an eviction policy over numbered slots; a store holds the slots' bytes. There are two
// stores: memory, and a file that survives restarts (docs/cache-format.md gives its bytes).
//
// Eviction is S3-FIFO with what the network tells us: a block that was only overheard enters a probation queue, and
// moves to the main queue when it is read here. A block that was asked for enters the main queue at once. Probation gives
// way first while it holds a tenth of the slots or more, so blocks that pass by and that nobody reads cannot push out
// what is read here. The main queue is a FIFO in which a block read again gets a second chance for each of up to three
// reads. A ghost table remembers keys evicted lately: one that is asked for again starts with a chance. Unlike in plain
// S3-FIFO, a ghost that is merely overheard again stays on probation: a stranger who plays a film twice is still a
// stranger.
//
// No lock is held while bytes are copied. A slot in use is pinned, and a pinned slot is not given to another key. So a
// reader never sees the bytes of a block that replaces the one it reads.
//
// The file needs no journal, no ordered writes and no sync: after opening, an entry is trusted only once the BLAKE3 hash
// of all its bytes was compared with its key. Whatever a crash leaves behind (data without its record, a record without
// its data, half of either, the record of the block that was being replaced) is found by that comparison and costs a
// miss. That is also why a record is not invalidated before its slot is overwritten. Entries put or checked in this run
// are not hashed again at each read.
package cache

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/dnbd/dnbd/internal/blake3"
)

// Key names an entry: the BLAKE3-256 hash of its bytes.
type Key = [32]byte

const (
	// MinSlotSize and MaxSlotSize bound the slot size, in bytes; it is a multiple of MinSlotSize.
	MinSlotSize = 4 << 10
	MaxSlotSize = 1 << 20

	// MinSlots is the least capacity, in slots: below it there is no room for a probation queue beside a main queue.
	MinSlots = 8

	// maxSlots keeps slot numbers, and one more, within 32 bits.
	maxSlots = 1<<32 - 2

	// maxDamageLogged bounds the log lines about damaged entries; all are counted.
	maxDamageLogged = 10
)

// Cache holds up to a fixed number of entries of 1 to slot size bytes each.
//
// All methods may be called from many goroutines at once.
type Cache struct {
	slotSize int
	store    store
	log      *slog.Logger
	buffers  sync.Pool      // *[]byte of slotSize, for entries that are checked while only a part is wanted
	warned   atomic.Bool    // a failed write was logged
	busy     sync.WaitGroup // calls that use the store; raised only with mu held and closed false

	// mu guards what follows, except that a slot's pins are lowered without it. It is never held during I/O or a copy.
	mu     sync.Mutex
	closed bool
	policy
	seq   uint64 // of the record to be written next
	stats Stats
}

// store holds the bytes of the slots, and for each a record of what it is if the store outlives the process. The caller
// sees to it that no slot is written while it is read or written by another.
type store interface {
	// read fills p with the slot's bytes at off, or fails.
	read(slot uint32, p []byte, off int) error
	// write puts p at the slot's start.
	write(slot uint32, p []byte) error
	// note writes the slot's record; the zero record says that it is empty.
	note(slot uint32, r record) error
	close() error
}

// newCache returns an empty cache of slots slots over st, which it owns.
func newCache(st store, slots uint32, slotSize int, log *slog.Logger) *Cache {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Cache{slotSize: slotSize, store: st, log: log, policy: newPolicy(slots)}
	c.buffers.New = func() any {
		b := make([]byte, slotSize)
		return &b
	}
	return c
}

// checkSlotSize returns an error unless slots may have n bytes.
func checkSlotSize(n int) error {
	if n < MinSlotSize || n > MaxSlotSize || n%MinSlotSize != 0 {
		return fmt.Errorf("slots of %d bytes: the size must be a multiple of %d from %d to %d",
			n, MinSlotSize, MinSlotSize, MaxSlotSize)
	}
	return nil
}

// Get copies the bytes [off, off+len(p)) of key's entry to p and counts as a read of it. It returns false, and leaves p
// undefined, when there is no such entry, when it is shorter, or when it turned out to be damaged or unreadable.
func (c *Cache) Get(key Key, p []byte, off int) bool {
	c.mu.Lock()
	i, found := c.find(&key)
	if !found || c.closed || c.slots[i].state != live || off < 0 || off > int(c.slots[i].length)-len(p) {
		c.stats.Misses++
		c.mu.Unlock()
		return false
	}
	s := &c.slots[i]
	changed := c.touchLocked(i)
	var r record
	if changed {
		r = c.recordLocked(i)
	}
	length, checked := int(s.length), s.checked
	c.stats.Hits++
	s.pins.Add(1)
	c.busy.Add(1)
	c.mu.Unlock()

	var err error
	if checked {
		err = c.store.read(i, p, off)
	} else {
		err = c.readChecked(i, &key, length, p, off)
	}
	switch {
	case err != nil:
		c.drop(i, err)
	case changed:
		c.note(i, r)
	}
	s.pins.Add(-1)
	c.busy.Done()
	return err == nil
}

// readChecked is read for an entry that an earlier run left: it compares the hash of all its bytes with its key. The
// slot is pinned.
func (c *Cache) readChecked(i uint32, key *Key, length int, p []byte, off int) error {
	whole := p
	if len(p) != length {
		b := c.buffers.Get().(*[]byte)
		defer c.buffers.Put(b)
		whole = (*b)[:length]
	}
	if err := c.store.read(i, whole, 0); err != nil {
		return err
	}
	if blake3.Sum256(whole) != *key {
		return errHash
	}
	if len(p) != length {
		copy(p, whole[off:])
	}
	c.mu.Lock()
	c.slots[i].checked = true
	c.mu.Unlock()
	return nil
}

// drop gives up an entry that a Get found bad. The slot is pinned by the caller.
func (c *Cache) drop(i uint32, why error) {
	c.mu.Lock()
	c.stats.Hits--
	c.stats.Misses++
	first := c.slots[i].state == live // another reader may have been here before
	if first {
		c.stats.Bad++
		c.stats.Used--
		c.stats.Bytes -= int64(c.slots[i].length)
		c.forgetLocked(i)
	}
	bad := c.stats.Bad
	c.mu.Unlock()
	if !first {
		return
	}
	c.note(i, record{})
	if bad <= maxDamageLogged {
		c.log.Warn("cache entry is damaged and will be fetched again", "slot", i, "error", why,
			"last_warning", bad == maxDamageLogged)
	}
}

// Has says whether key's entry is there, without reading it or counting a read. An entry left by an earlier run may yet
// turn out to be damaged, when Get checks it.
func (c *Cache) Has(key Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, found := c.find(&key)
	return found && !c.closed && c.slots[i].state == live
}

// Put keeps a copy of data, whose hash must be key: the caller has checked it, Put does not. With snooped the entry is on
// probation until it is read; otherwise Put counts as a read of it. The entry may replace others.
//
// It keeps nothing when data has not 1 to slot size bytes, when the store fails, or when every slot is in use by other
// calls at this moment. An entry that is already there stays as it is. With a file Put takes as long as a write to it
// does, which on a busy disk can be long.
func (c *Cache) Put(key Key, data []byte, snooped bool) {
	if len(data) == 0 || len(data) > c.slotSize {
		return
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	if i, found := c.find(&key); found {
		c.putAgainLocked(i, snooped)
		return
	}
	i, ok := c.reserveLocked()
	if !ok {
		c.mu.Unlock()
		return
	}
	c.insertLocked(i, &key, len(data), snooped)
	s := &c.slots[i]
	r := c.recordLocked(i)
	s.pins.Add(1)
	c.busy.Add(1)
	c.mu.Unlock()

	err := c.store.write(i, data)
	if err != nil {
		c.warnWrite(err)
	} else {
		c.note(i, r)
	}

	c.mu.Lock()
	if err != nil {
		c.forgetLocked(i)
	} else {
		s.state = live
		c.stats.Used++
		c.stats.Bytes += int64(len(data))
		if snooped {
			c.stats.Snooped++
		}
	}
	c.mu.Unlock()
	s.pins.Add(-1)
	c.busy.Done()
}

// putAgainLocked counts a Put of an entry that is there. It unlocks.
func (c *Cache) putAgainLocked(i uint32, snooped bool) {
	s := &c.slots[i]
	if snooped || s.state != live || !c.touchLocked(i) {
		c.mu.Unlock()
		return
	}
	r := c.recordLocked(i)
	s.pins.Add(1)
	c.busy.Add(1)
	c.mu.Unlock()
	c.note(i, r)
	s.pins.Add(-1)
	c.busy.Done()
}

// recordLocked is what the store should know about slot i, with a sequence number of its own.
func (c *Cache) recordLocked(i uint32) record {
	c.seq++
	s := &c.slots[i]
	return record{key: s.key, length: s.length, reads: s.reads, seq: c.seq}
}

// note writes the record of a slot that the caller has pinned. When that fails the entry serves this run all the same.
func (c *Cache) note(i uint32, r record) {
	if err := c.store.note(i, r); err != nil {
		c.warnWrite(err)
	}
}

// warnWrite logs the first failed write.
func (c *Cache) warnWrite(err error) {
	if !c.warned.Swap(true) {
		c.log.Warn("cache cannot be written; what it cannot keep is fetched again", "error", err)
	}
}

// Close waits for calls under way and releases the memory or the file. Later Gets miss and later Puts keep nothing. A
// second Close does nothing and returns nil.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	c.busy.Wait()
	return c.store.close()
}
