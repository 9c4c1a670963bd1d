package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dnbd/dnbd/block"
)

// Sink takes the bytes of an image that is being copied, in any order and from several goroutines at once.
type Sink struct {
	// Write takes bytes at an offset. They are the caller's again when it returns.
	Write func(off int64, p []byte) error
	// Zero takes a run of n zero bytes, which did not cross the network.
	Zero func(off, n int64) error
}

// copying is a Copy under way.
type copying struct {
	write func(block uint32, data []byte) error
	done  chan struct{} // closed when nothing is left, or err is set

	mu     sync.Mutex // guards what follows
	left   []bool     // data blocks that have not been handed to write
	toSink int        // blocks that write has not returned from
	err    error
}

// deliver hands a checked block to the sink, once.
func (c *copying) deliver(block uint32, data []byte) {
	c.mu.Lock()
	wanted := c.left[block] && c.err == nil
	c.left[block] = false
	c.mu.Unlock()
	if !wanted {
		return
	}
	err := c.write(block, data)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.toSink--
	switch {
	case c.err != nil:
	case err != nil:
		c.err = err
		close(c.done)
	case c.toSink == 0:
		close(c.done)
	}
}

// lacks says whether a block is still to come.
func (c *copying) lacks(block uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int(block) < len(c.left) && c.left[block]
}

// pagesAtOnce bounds the pages of the tree that Copy asks for at a time.
const pagesAtOnce = 64

// Copy hands the whole image to sink. It takes the blocks in whichever order the group's stream has them: who joins late goes
// along, and catches up on what it missed together with all others who did. One Copy runs at a time.
func (c *Client) Copy(ctx context.Context, sink Sink) error {
	if err := c.copyTree(ctx); err != nil {
		return fmt.Errorf("copy %s: read its tree: %w", c.cfg.Descriptor.Name, c.timedOut(err))
	}
	g := c.geometry
	job := &copying{
		left: make([]bool, g.Data()),
		done: make(chan struct{}),
		write: func(b uint32, data []byte) error {
			return sink.Write(g.Offset(b), data)
		},
	}
	for b := uint32(0); b < g.Data(); {
		if zero, _ := c.tree.IsZero(b); !zero {
			job.left[b] = true
			job.toSink++
			b++
			continue
		}
		first, n := b, int64(0)
		for zero := true; zero && b < g.Data(); zero, _ = c.tree.IsZero(b) {
			n += int64(g.Len(b))
			b++
		}
		if err := sink.Zero(g.Offset(first), n); err != nil {
			return fmt.Errorf("copy %s: %w", c.cfg.Descriptor.Name, err)
		}
	}
	if job.toSink == 0 {
		return nil
	}

	here, err := c.wantBulk(job)
	if err != nil {
		return err
	}
	defer func() {
		c.mu.Lock()
		c.copying = nil
		c.mu.Unlock()
	}()
	c.copyCached(ctx, job, here)
	select {
	case <-job.done:
	case <-ctx.Done():
		return fmt.Errorf("copy %s: %w", c.cfg.Descriptor.Name, c.timedOut(ctx.Err()))
	case <-c.ctx.Done():
		return fmt.Errorf("copy %s: %w", c.cfg.Descriptor.Name, block.ErrClosed)
	}
	job.mu.Lock()
	defer job.mu.Unlock()
	return job.err
}

// wantBulk asks for what a Copy needs, except for blocks that are in the cache, which it returns.
func (c *Client) wantBulk(job *copying) (here []uint32, err error) {
	c.mu.Lock()
	if c.copying != nil {
		c.mu.Unlock()
		return nil, errors.New("copy: one is under way already")
	}
	c.copying = job
	now := time.Now()
	c.since = now
	for i, wanted := range job.left {
		if !wanted {
			continue
		}
		b := uint32(i)
		if hash, _ := c.tree.Hash(b); c.cache.Load().Has(hash) {
			here = append(here, b)
		} else {
			c.rx.WantBulk(now, b)
		}
	}
	c.step(now)
	return here, nil
}

// copyCached delivers what is in the cache: blocks that went by before the copy began. What has left it meanwhile is asked for.
func (c *Client) copyCached(ctx context.Context, job *copying, here []uint32) {
	buf := make([]byte, c.geometry.BlockSize())
	for _, b := range here {
		if ctx.Err() != nil {
			return
		}
		hash, _ := c.tree.Hash(b)
		if p := buf[:c.geometry.Len(b)]; c.cache.Load().Get(hash, p, 0) {
			job.deliver(b, p)
			continue
		}
		now := time.Now()
		c.mu.Lock()
		c.rx.WantBulk(now, b)
		c.step(now)
	}
}

// copyTree makes all pages of the tree known.
func (c *Client) copyTree(ctx context.Context) error {
	g := c.geometry
	for top := g.Total(); top > g.Data(); {
		first := max(g.Data(), top-min(top, pagesAtOnce))
		var parts []part
		var readers []*reader
		c.mu.Lock()
		for b := first; b < top; b++ {
			if _, known := c.tree.Page(b); known {
				continue
			}
			r := &reader{done: make(chan struct{})}
			c.wait(time.Now(), b, r)
			parts, readers = append(parts, part{block: b}), append(readers, r)
		}
		c.since = time.Now()
		c.step(time.Now())
		for i, r := range readers {
			select {
			case <-r.done:
			case <-ctx.Done():
				c.abandon(parts[i:], readers[i:])
				return ctx.Err()
			case <-c.ctx.Done():
				c.abandon(parts[i:], readers[i:])
				return block.ErrClosed
			}
		}
		top = first
	}
	return nil
}
