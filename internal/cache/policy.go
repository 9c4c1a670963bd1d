package cache

import "sync/atomic"

const (
	// probationShare: probation gives way first while it holds at least one slot in this many.
	probationShare = 10

	// maxFreq is the highest count of reads that an entry can live on in the main queue.
	maxFreq = 3

	// maxReads is the highest value of slot.reads: read again.
	maxReads = 2

	// maxChances bounds the entries passed over in search of one to evict, and so the time that the lock is held. Past
	// it everything in sight is hot, and any choice as good as another.
	maxChances = 256
)

// ref names a slot by its number plus one, so that zeroed memory names none.
type ref uint32

// state is what a slot is used for.
type state uint8

const (
	empty   state = iota // on the free list, or never used
	filling              // has a key and a place in a queue; the bytes are being written
	live                 // may be read
)

// slot is what is known of one entry. With the two tables beside it (4 bytes each) that is 64 bytes an entry.
type slot struct {
	key        Key
	chain      ref          // the next slot in the same bucket of the index
	prev, next ref          // neighbours in the list that the slot is in
	pins       atomic.Int32 // calls that use the slot's bytes; while it is not 0 the slot keeps its bytes
	length     uint32       // of the entry, in bytes
	state      state
	reads      uint8 // 0: never read here, so on probation; 1: read; 2: read again
	freq       uint8 // chances left in the main queue
	checked    bool  // the bytes are known to match the key
}

// list is a queue of slots, linked through them: first in at the head.
type list struct {
	head, tail ref
	n          int
}

// policy decides which slot holds what: the index, the free slots and the two queues. The cache's lock guards it.
type policy struct {
	index
	ghost     ghost
	free      list   // emptied slots; one may still be pinned by a reader that has not noticed
	fresh     uint32 // slots from here on were never used: their memory is not touched before it is needed
	probation list   // entries with reads == 0
	main      list   // the others

	replaced, promoted uint64
}

func newPolicy(slots uint32) policy {
	return policy{index: newIndex(slots), ghost: newGhost(slots)}
}

// queue is the list that an entry read so often is in.
func (p *policy) queue(reads uint8) *list {
	if reads == 0 {
		return &p.probation
	}
	return &p.main
}

// insertLocked gives the reserved slot i to key, not yet readable.
func (p *policy) insertLocked(i uint32, key *Key, length int, snooped bool) {
	s := &p.slots[i]
	s.length, s.state, s.reads, s.freq, s.checked = uint32(length), filling, 0, 0, true
	if !snooped {
		s.reads = 1
		if p.ghost.has(key) {
			s.freq = 1
		}
	}
	p.add(i, key)
	p.push(p.queue(s.reads), i)
}

// touchLocked counts a read of slot i. It returns true when the slot's record should be written anew.
func (p *policy) touchLocked(i uint32) bool {
	s := &p.slots[i]
	if s.reads == 0 {
		p.unlink(&p.probation, i)
		p.push(&p.main, i)
		p.promoted++
		s.reads = 1
		return true
	}
	s.freq = min(s.freq+1, maxFreq)
	if s.reads == maxReads {
		return false
	}
	s.reads = maxReads
	return true
}

// forgetLocked frees slot i.
func (p *policy) forgetLocked(i uint32) {
	p.removeLocked(i)
	p.push(&p.free, i)
}

// removeLocked takes slot i out of the index and its queue.
func (p *policy) removeLocked(i uint32) {
	s := &p.slots[i]
	p.remove(i)
	p.unlink(p.queue(s.reads), i)
	s.state = empty
}

// reserveLocked returns a slot that nothing uses: an emptied one, a new one, or that of an evicted entry. It returns
// false when all are pinned.
func (c *Cache) reserveLocked() (uint32, bool) {
	for r := c.free.head; r != 0; r = c.slots[r-1].next {
		if i := uint32(r - 1); c.slots[i].pins.Load() == 0 {
			c.unlink(&c.free, i)
			return i, true
		}
	}
	if int(c.fresh) < len(c.slots) {
		c.fresh++
		return c.fresh - 1, true
	}
	first, second := &c.main, &c.probation
	if c.probation.n >= max(1, len(c.slots)/probationShare) {
		first, second = second, first
	}
	i, ok := c.victimLocked(first)
	if !ok {
		i, ok = c.victimLocked(second)
	}
	if !ok {
		return 0, false
	}
	s := &c.slots[i]
	c.ghost.add(&s.key)
	c.removeLocked(i)
	c.replaced++
	c.stats.Used--
	c.stats.Bytes -= int64(s.length)
	return i, true
}

// victimLocked finds the entry of l to evict: the oldest that is not pinned and has no chances left.
func (p *policy) victimLocked(l *list) (uint32, bool) {
	for try := range min(l.n*(maxFreq+1), 2*maxChances) {
		i := uint32(l.head - 1)
		s := &p.slots[i]
		if s.pins.Load() == 0 && (s.freq == 0 || try >= maxChances) {
			return i, true
		}
		if s.freq > 0 {
			s.freq--
		}
		p.unlink(l, i)
		p.push(l, i)
	}
	return 0, false
}

// push appends slot i, which is in no list, to l.
func (p *policy) push(l *list, i uint32) {
	s := &p.slots[i]
	s.prev, s.next = l.tail, 0
	if l.tail != 0 {
		p.slots[l.tail-1].next = ref(i + 1)
	} else {
		l.head = ref(i + 1)
	}
	l.tail = ref(i + 1)
	l.n++
}

// unlink takes slot i out of l.
func (p *policy) unlink(l *list, i uint32) {
	s := &p.slots[i]
	if s.prev != 0 {
		p.slots[s.prev-1].next = s.next
	} else {
		l.head = s.next
	}
	if s.next != 0 {
		p.slots[s.next-1].prev = s.prev
	} else {
		l.tail = s.prev
	}
	s.prev, s.next = 0, 0
	l.n--
}
