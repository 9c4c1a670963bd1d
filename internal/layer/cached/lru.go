package cached

import (
	"bytes"
	"container/list"
)

// lru has the blocks that were used last.
type lru struct {
	capacity int64 // blocks
	blocks   map[int64]*list.Element
	used     *list.List // of *entry, the last used first
}

// entry is a block in the cache. Its bytes are never changed.
type entry struct {
	block int64
	data  []byte
}

func newLRU(capacity int64) lru {
	return lru{capacity: capacity, blocks: map[int64]*list.Element{}, used: list.New()}
}

// get returns a block's bytes, or nil.
func (c *lru) get(b int64) []byte {
	e := c.blocks[b]
	if e == nil {
		return nil
	}
	c.used.MoveToFront(e)
	return e.Value.(*entry).data
}

// put takes in a block, and drops the one that was used longest ago if there is no room.
func (c *lru) put(b int64, data []byte) {
	c.drop(b)
	if int64(c.used.Len()) == c.capacity {
		c.drop(c.used.Back().Value.(*entry).block)
	}
	c.blocks[b] = c.used.PushFront(&entry{b, data})
}

// patch replaces bytes from at on of a block, if it is there.
func (c *lru) patch(b, at int64, p []byte) {
	e := c.blocks[b]
	if e == nil {
		return
	}
	old := e.Value.(*entry)
	data := bytes.Clone(old.data)
	copy(data[at:], p)
	e.Value = &entry{b, data}
}

// drop forgets a block, if it is there.
func (c *lru) drop(b int64) {
	if e := c.blocks[b]; e != nil {
		c.used.Remove(e)
		delete(c.blocks, b)
	}
}
