package cached

import (
	"bytes"
	"context"
	"fmt"

	"github.com/dnbd/dnbd/block"
)

// load is a read of blocks that are not in the cache, for all who want them.
type load struct {
	first, end int64 // blocks
	stop       context.CancelFunc
	done       chan struct{} // closed when data and err are there

	data []byte
	err  error

	waiting int // sources that it is; guarded by device.mu
}

// beginLocked begins to load the blocks from first on that sources are for, and makes the load their source.
func (c *device) beginLocked(sources []source, first int64) {
	ctx, stop := context.WithCancel(c.ctx)
	l := &load{first: first, end: first + int64(len(sources)), stop: stop, done: make(chan struct{}), waiting: len(sources)}
	for i := range sources {
		sources[i].load = l
		c.loading[first+int64(i)] = l
	}
	if c.closed.Load() {
		// Close does not wait for what comes after it.
		l.err = fmt.Errorf("cache: %w", block.ErrClosed)
		close(l.done)
		return
	}
	c.loaded.Go(func() {
		defer close(l.done)
		l.data = make([]byte, min(l.end*BlockSize, c.size)-first*BlockSize)
		l.err = c.Device.ReadAt(ctx, l.data, first*BlockSize)
		if l.err != nil && c.closed.Load() {
			l.err = fmt.Errorf("cache: %w", block.ErrClosed)
		}
		c.keep(l)
	})
}

// keep puts what was loaded in the cache, but for blocks that were detached meanwhile.
func (c *device) keep(l *load) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for b := l.first; b < l.end; b++ {
		if c.loading[b] != l {
			continue
		}
		delete(c.loading, b)
		if l.err == nil && !c.closed.Load() {
			data := l.block(b)
			if l.end-l.first > 1 {
				// One block must not hold the memory of all that were loaded with it.
				data = bytes.Clone(data)
			}
			c.lru.put(b, data)
		}
	}
}

// detachLocked keeps a load of block b, if there is one, from being joined and its block from being kept.
func (c *device) detachLocked(b int64) { delete(c.loading, b) }

// leave says that the sources are not used any more. Nobody loads for nobody.
func (c *device) leave(sources []source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range sources {
		l := s.load
		if l == nil {
			continue
		}
		if l.waiting--; l.waiting > 0 {
			continue
		}
		l.stop()
		for b := l.first; b < l.end; b++ {
			if c.loading[b] == l {
				c.detachLocked(b)
			}
		}
	}
}

// wait returns when l is done, or ctx ends.
func (l *load) wait(ctx context.Context) error {
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return fmt.Errorf("read blocks %d to %d: %w", l.first, l.end-1, ctx.Err())
	}
}

// block returns the bytes of block b, which l has loaded.
func (l *load) block(b int64) []byte {
	from := (b - l.first) * BlockSize
	return l.data[from:min(from+BlockSize, int64(len(l.data)))]
}
