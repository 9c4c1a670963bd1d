package cached

import "context"

// write is a change to blocks that is under way.
type write struct {
	first, end int64
	// crossed says that another one to some of the blocks was under way at the same time; guarded by device.mu.
	crossed bool
}

// WriteAt implements block.Writer.
func (c *device) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	return c.change(ctx, off, int64(len(p)), p, func() error { return c.Lower.WriteAt(ctx, p, off, fua) })
}

// Trim implements block.Trimmer.
func (c *device) Trim(ctx context.Context, off, n int64, fua bool) error {
	return c.change(ctx, off, n, nil, func() error { return c.Lower.Trim(ctx, off, n, fua) })
}

// WriteZeroes implements block.Zeroer.
func (c *device) WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error {
	return c.change(ctx, off, n, nil, func() error { return c.Lower.WriteZeroes(ctx, off, n, hole, fast, fua) })
}

// change has do change n bytes at off of the device below, and then makes the cache agree: to p, or to what will be read
// if p is nil.
func (c *device) change(ctx context.Context, off, n int64, p []byte, do func() error) error {
	if err := c.check(ctx, off, n); err != nil {
		return err
	}
	if n == 0 {
		return do()
	}
	w := c.beginWrite(off/BlockSize, (off+n-1)/BlockSize+1)
	err := do()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.writes, w)
	for b := w.first; b < w.end; b++ {
		c.detachLocked(b)
		if err != nil || w.crossed || p == nil {
			c.lru.drop(b)
		} else {
			begin := b * BlockSize
			c.lru.patch(b, max(off-begin, 0), p[max(begin-off, 0):])
		}
	}
	return err
}

// beginWrite notes a write that is about to be made.
func (c *device) beginWrite(first, end int64) *write {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &write{first: first, end: end}
	for other := range c.writes {
		if first < other.end && other.first < end {
			other.crossed, w.crossed = true, true
		}
	}
	c.writes[w] = struct{}{}
	return w
}
