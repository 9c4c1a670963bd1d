package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/wire"
)

// ReadAt implements block.Device. It waits for a server as long as IOTimeout allows.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := block.CheckRange(c.Size(), off, len(p)); err != nil {
		return err
	}
	if c.ctx.Err() != nil {
		return fmt.Errorf("read %d bytes at %d of %s: %w", len(p), off, c.cfg.Descriptor.Name, block.ErrClosed)
	}
	c.asked.Add(uint64(len(p)))
	if limit := time.Duration(c.ioTimeout.Load()); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	if err := c.read(ctx, p, off); err != nil {
		c.errors.Add(1)
		return fmt.Errorf("read %d bytes at %d of %s: %w", len(p), off, c.cfg.Descriptor.Name, c.timedOut(err))
	}
	return nil
}

// part is the piece of a read that lies in one block.
type part struct {
	block uint32
	off   int // in the block
	dst   []byte
}

// split divides a read at the blocks' borders.
func (c *Client) split(p []byte, off int64) []part {
	var parts []part
	size := int64(c.geometry.BlockSize())
	for len(p) > 0 {
		b := uint32(off / size)
		in := int(off % size)
		n := min(len(p), c.geometry.Len(b)-in)
		parts = append(parts, part{b, in, p[:n]})
		p, off = p[n:], off+int64(n)
	}
	return parts
}

// read fills p from what is here, and asks for the rest, all of it at once.
func (c *Client) read(ctx context.Context, p []byte, off int64) error {
	parts := c.split(p, off)
	from, to := c.ahead.next(off, int64(len(p)), c.Size())
	for {
		missing := slices.DeleteFunc(parts, c.here)
		if len(missing) == 0 && from == to {
			return nil
		}
		readers := make([]*reader, 0, len(missing))
		waiting := missing[:0]
		var came []part // between the look into the cache and now
		c.mu.Lock()
		now := time.Now()
		if len(c.readers) == 0 {
			c.since = now
		}
		for _, part := range missing {
			if c.has(part.block) {
				came = append(came, part)
				continue
			}
			r := &reader{dst: part.dst, off: part.off, done: make(chan struct{})}
			c.wait(now, part.block, r)
			waiting, readers = append(waiting, part), append(readers, r)
		}
		c.wantAhead(now, from, to)
		c.step(now)
		for i, r := range readers {
			select {
			case <-r.done:
				continue
			case <-ctx.Done():
				c.abandon(waiting[i:], readers[i:])
				return ctx.Err()
			case <-c.ctx.Done():
				c.abandon(waiting[i:], readers[i:])
				return block.ErrClosed
			}
		}
		if len(came) == 0 {
			return nil
		}
		parts, from, to = came, 0, 0
	}
}

// has says whether a block need not be waited for: it is in the cache, or known to be zero.
func (c *Client) has(b uint32) bool {
	if zero, _ := c.tree.IsZero(b); zero {
		return true
	}
	hash, known := c.tree.Hash(b)
	return known && c.cache.Load().Has(hash)
}

// here fills a part from the tree or the cache. It says whether it could.
func (c *Client) here(p part) bool {
	if !c.climb(p.block) {
		return false
	}
	if zero, _ := c.tree.IsZero(p.block); zero {
		clear(p.dst)
		return true
	}
	hash, _ := c.tree.Hash(p.block)
	if !c.cache.Load().Get(hash, p.dst, p.off) {
		return false
	}
	if c.snooped.take(p.block) {
		c.mu.Lock()
		c.rx.Used(p.block)
		c.step(time.Now())
	}
	return true
}

// wait registers a reader for a block and asks for it, and for the pages above it that are not known. It is called with mu
// held.
func (c *Client) wait(now time.Time, b uint32, r *reader) {
	c.readers[b] = append(c.readers[b], r)
	for {
		if zero, _ := c.tree.IsZero(b); !zero {
			c.want(now, b, wire.Demand)
		}
		page, _, ok := c.geometry.Parent(b)
		if _, known := c.tree.Hash(b); known || !ok {
			return
		}
		// Whoever waits for a block waits for the page above it too.
		if len(c.readers[page]) == 0 {
			c.readers[page] = []*reader{{done: make(chan struct{})}}
		}
		b = page
	}
}

// wantAhead asks for the blocks of [from, to) that are neither here nor zero. It is called with mu held.
func (c *Client) wantAhead(now time.Time, from, to int64) {
	size := int64(c.geometry.BlockSize())
	for b := from / size; b*size < to; b++ {
		if _, known := c.tree.Hash(uint32(b)); !known {
			if page, _, ok := c.geometry.Parent(uint32(b)); ok {
				if len(c.readers[page]) == 0 {
					c.wait(now, page, &reader{done: make(chan struct{})})
				}
			}
			continue
		}
		if !c.has(uint32(b)) {
			c.want(now, uint32(b), wire.ReadAhead)
		}
	}
}

// forget takes back a reader that was served otherwise.
func (c *Client) forget(b uint32, r *reader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-r.done:
		return
	default:
	}
	c.readers[b] = slices.DeleteFunc(c.readers[b], func(x *reader) bool { return x == r })
	if len(c.readers[b]) == 0 {
		delete(c.readers, b)
		c.rx.Cancel(b)
	}
	close(r.done)
}

// abandon takes back the readers of a read that gave up. After it nothing writes to their buffers.
func (c *Client) abandon(parts []part, readers []*reader) {
	for i, r := range readers {
		c.forget(parts[i].block, r)
	}
}
