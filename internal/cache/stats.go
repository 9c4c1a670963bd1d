package cache

// Stats describes a cache at one moment. Counters start at 0 when the cache is opened.
type Stats struct {
	Slots    int   // capacity, in entries
	SlotSize int   // the longest entry, in bytes
	Used     int   // entries held
	Bytes    int64 // the sum of their lengths

	Hits      uint64 // Gets that returned bytes
	Misses    uint64 // Gets that did not
	Replaced  uint64 // entries evicted to make room for others
	Promoted  uint64 // entries that left probation because they were read
	Snooped   uint64 // entries that came in by being overheard
	Bad       uint64 // entries found damaged or unreadable when they were read
	Recovered uint64 // entries that an earlier run left and that were found at opening
}

// Stats returns the present state.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.stats
	st.Slots, st.SlotSize, st.Replaced, st.Promoted = len(c.slots), c.slotSize, c.replaced, c.promoted
	return st
}
