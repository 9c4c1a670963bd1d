package client

import (
	"time"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/wire"
)

// check checks blocks that arrived, keeps them and hands them to their readers.
func (c *Client) check() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case b := <-c.blocks:
			c.arrived(b)
		}
	}
}

// arrived checks one block.
func (c *Client) arrived(b mcast.Block) {
	defer c.checked(b)
	sum := image.Sum(b.Data)
	want, known := c.tree.Hash(b.Index)
	if known && sum != want {
		c.refuse(b)
		return
	}
	page := b.Index >= c.geometry.Data()
	c.mu.Lock()
	copying := c.copying
	c.mu.Unlock()
	if copying == nil || page || !known {
		c.cache.Load().Put(sum, b.Data, !b.Asked)
		if !b.Asked {
			c.snooped.set(b.Index)
		}
	}
	if !known {
		// The page above may have come just now: then below did not see the block in the cache.
		if want, known = c.tree.Hash(b.Index); !known {
			return
		} else if sum != want {
			c.refuse(b)
			return
		}
	}
	c.handOut(b.Index, b.Data, copying)
}

// supplied takes in a block that came over NBD and was checked.
func (c *Client) supplied(number uint32, sum image.Hash, data []byte) {
	c.mu.Lock()
	c.rx.Supply(number)
	c.checking[number]++
	c.since = time.Now()
	copying := c.copying
	c.mu.Unlock()
	c.fetched.Add(uint64(len(data)))
	if copying == nil || number >= c.geometry.Data() {
		c.cache.Load().Put(sum, data, false)
	}
	c.handOut(number, data, copying)
	c.mu.Lock()
	c.settle(number)
}

// handOut gives a block that was checked to who wants it.
func (c *Client) handOut(number uint32, data []byte, copying *copying) {
	if number >= c.geometry.Data() {
		c.addPage(number, data)
		return
	}
	if copying != nil {
		copying.deliver(number, data)
	}
	c.deliver(number, data)
}

// checked ends the check of a block from the group.
func (c *Client) checked(b mcast.Block) {
	c.mu.Lock()
	c.rx.Recycle(b.Data)
	c.settle(b.Index)
}

// settle ends the check of a block. It is called with mu held and releases it. Who began to wait for it since it was handed out, or thrown away, has not asked for it; while its
// hash is unknown it is in the cache, and below looks there when the page above comes.
func (c *Client) settle(number uint32) {
	if c.checking[number]--; c.checking[number] == 0 {
		delete(c.checking, number)
	}
	if _, known := c.tree.Hash(number); !known || len(c.readers[number]) == 0 {
		c.mu.Unlock()
		return
	}
	now := time.Now()
	c.want(now, number, wire.Demand)
	c.step(now)
}

// addPage makes a page known that was checked, and looks after those who waited for it or for blocks below it.
func (c *Client) addPage(number uint32, data []byte) {
	if err := c.tree.AddPage(number, data); err != nil {
		c.cfg.Log.Error("add page to the tree", "image", c.cfg.Descriptor.Name, "error", err)
		return
	}
	c.deliver(number, data)
	c.below(number)
}

// refuse throws a block away that is not the image's, and asks for it again if somebody waits for it.
func (c *Client) refuse(b mcast.Block) {
	c.refused.Add(1)
	c.cfg.Log.Warn("block refused: its bytes do not match the image's tree", "block", b.Index, "server", b.From)
	c.mu.Lock()
	switch {
	case len(c.readers[b.Index]) > 0:
		c.rx.Refuse(time.Now(), b.Index, wire.Demand)
	case c.copying != nil && c.copying.lacks(b.Index):
		c.rx.Refuse(time.Now(), b.Index, wire.ReadAhead)
	}
	c.step(time.Now())
}

// deliver hands a block that was checked to those who wait for it.
func (c *Client) deliver(block uint32, data []byte) {
	c.mu.Lock()
	waiting := c.readers[block]
	delete(c.readers, block)
	// Under the lock, so that a reader that gives up knows whether its buffer is still being written to.
	for _, r := range waiting {
		copy(r.dst, data[r.off:])
		close(r.done)
	}
	c.mu.Unlock()
}

// below looks after the readers of blocks whose hashes became known with a page: what had come before it is in the cache, and
// what was wrong is asked for again.
func (c *Client) below(page uint32) {
	c.mu.Lock()
	var blocks []uint32
	for b := range c.readers {
		if parent, _, ok := c.geometry.Parent(b); ok && parent == page {
			blocks = append(blocks, b)
		}
	}
	c.mu.Unlock()
	for _, b := range blocks {
		hash, _ := c.tree.Hash(b)
		buf := make([]byte, c.geometry.Len(b))
		switch zero, _ := c.tree.IsZero(b); {
		case !zero && !c.cache.Load().Get(hash, buf, 0):
			c.mu.Lock()
			if len(c.readers[b]) > 0 {
				c.want(time.Now(), b, wire.Demand)
			}
			c.step(time.Now())
		case b >= c.geometry.Data():
			c.addPage(b, buf)
		default:
			c.deliver(b, buf)
		}
	}
}

// climb makes the hash of a block known if the pages above it are in the cache. It says whether the hash is known.
func (c *Client) climb(b uint32) bool {
	if _, known := c.tree.Hash(b); known {
		return true
	}
	page, _, ok := c.geometry.Parent(b)
	if !ok || !c.climb(page) {
		return false
	}
	hash, _ := c.tree.Hash(page)
	buf := make([]byte, c.geometry.Len(page))
	if !c.cache.Load().Get(hash, buf, 0) {
		return false
	}
	c.addPage(page, buf)
	return true
}
