// Package cached is a layer that keeps what was read last in memory.
package cached

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/dnbd/dnbd/block"
)

// Design
//
// What is read is kept in whole blocks, and the block that was used longest ago makes room. Blocks that are being loaded are
// known, and who wants one of them waits for it. A load goes on as long as anyone waits for it.
//
// Writes go through. A block's bytes are never changed in place, so that they are copied to readers without a lock: a write
// puts a changed copy in the old one's stead when the device below has answered. Until then a read may return either. Three
// things could leave old bytes behind, and have the block dropped instead: a write that failed, two writes to a block at the
// same time (nobody knows in which order they were done), and a load that overlaps a write (nobody knows what it saw; it
// is for those who wait already, and not kept). Trims and zeroes drop the blocks.

// BlockSize is the unit of the cache in bytes. It is that of images, so that a block of one is asked for once.
const BlockSize = 64 << 10

// loadBlocks is the most blocks that are loaded with one read of the device below: 1 MiB.
const loadBlocks = 16

// windowBlocks is how many blocks of a long read are loaded at a time: the most memory that a read needs beside the cache
// and its own buffer, and enough for a few loads at once.
const windowBlocks = 4 * loadBlocks

// device is the layer.
type device struct {
	block.Lower
	size   int64
	ctx    context.Context // ends when the device is closed
	stop   context.CancelFunc
	loaded sync.WaitGroup // the loads under way

	capacity int64 // blocks
	closed   atomic.Bool

	mu  sync.Mutex
	lru lru
	// loading has the load of each block that is being loaded and may be joined.
	loading map[int64]*load
	writes  map[*write]struct{}
}

// New returns d with a cache of so many bytes of memory, at least one block. It is a block.Prefetcher whatever d is: what is
// prefetched is in the cache when Prefetch returns. d belongs to the layer, which closes it.
func New(d block.Device, memory int64) block.Device {
	ctx, stop := context.WithCancel(context.Background())
	capacity := max(memory/BlockSize, 1)
	c := &device{
		Lower:    block.Lower{Device: d},
		size:     d.Size(),
		ctx:      ctx,
		stop:     stop,
		capacity: capacity,
		lru:      newLRU(capacity),
		loading:  map[int64]*load{},
		writes:   map[*write]struct{}{},
	}
	return block.Expose(c, block.Has(d)|block.CanPrefetch)
}

// Close implements block.Device. It ends the loads and waits for them.
func (c *device) Close() error {
	c.mu.Lock()
	c.closed.Store(true)
	c.lru = newLRU(1)
	c.mu.Unlock()
	c.stop()
	c.loaded.Wait()
	return c.Device.Close()
}

// check returns why a request fails before it is made, if it does.
func (c *device) check(ctx context.Context, off, n int64) error {
	if c.closed.Load() {
		return fmt.Errorf("cache: %w", block.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return block.CheckRange(c.size, off, n)
}

// ReadAt implements block.Device.
func (c *device) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := c.check(ctx, off, int64(len(p))); err != nil {
		return err
	}
	err := c.each(ctx, off, int64(len(p)), func(b int64, data []byte) {
		// The part of the block that was asked for.
		begin := b * BlockSize
		copy(p[max(begin-off, 0):], data[max(off-begin, 0):])
	})
	if err != nil && ctx.Err() == nil && !c.closed.Load() {
		// It may have failed for the sake of bytes that this read did not ask for.
		return c.Device.ReadAt(ctx, p, off)
	}
	return err
}

// Prefetch implements block.Prefetcher. Of a range larger than half of the cache only the beginning is loaded, since the rest
// would push it out again.
func (c *device) Prefetch(ctx context.Context, off, n int64) error {
	if err := c.check(ctx, off, n); err != nil {
		return err
	}
	return c.each(ctx, off, min(n, max(c.capacity/2, 1)*BlockSize), func(int64, []byte) {})
}

// each calls use with each block of a range, in any order. The bytes are not to be changed.
func (c *device) each(ctx context.Context, off, n int64, use func(b int64, data []byte)) error {
	if n == 0 {
		return nil
	}
	first, end := off/BlockSize, (off+n-1)/BlockSize+1
	for first < end {
		to := min(first+windowBlocks, end)
		if err := c.window(ctx, first, to, use); err != nil {
			return err
		}
		first = to
	}
	return nil
}

// window calls use with the blocks from first to before end, and loads those that are missing, all at once.
func (c *device) window(ctx context.Context, first, end int64, use func(b int64, data []byte)) error {
	sources := c.find(first, end)
	defer c.leave(sources)
	for i, s := range sources {
		b := first + int64(i)
		if s.load != nil {
			if err := s.load.wait(ctx); err != nil {
				return err
			}
			s.data = s.load.block(b)
		}
		use(b, s.data)
	}
	return nil
}

// source is where a block comes from: the cache, or a load.
type source struct {
	data []byte
	load *load
}

// find returns where the blocks from first to before end come from, and begins to load those that are nowhere. The caller
// leaves the sources.
func (c *device) find(first, end int64) []source {
	sources := make([]source, end-first)
	c.mu.Lock()
	defer c.mu.Unlock()
	missing := first // where the blocks that are nowhere begin
	for b := first; b < end; b++ {
		s := &sources[b-first]
		s.data, s.load = c.lru.get(b), c.loading[b]
		switch {
		case s.data != nil:
			s.load = nil
		case s.load != nil:
			s.load.waiting++
		default:
			if b+1-missing < loadBlocks && b+1 < end {
				continue
			}
			c.beginLocked(sources[missing-first:][:b+1-missing], missing)
			missing = b + 1
			continue
		}
		if missing < b {
			c.beginLocked(sources[missing-first:][:b-missing], missing)
		}
		missing = b + 1
	}
	return sources
}
