// Package readahead is a layer that has a device prefetch what a sequential reader will read next.
package readahead

import (
	"context"
	"sync"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/layer/cached"
)

// maxUnderWay is how many prefetches run at once. A device that is too slow for more is not helped by them: they are left out.
const maxUnderWay = 8

// device is the layer.
type device struct {
	block.Lower
	runs *Runs

	ctx  context.Context // ends when the device is closed
	stop context.CancelFunc
	// slots has room for the prefetches under way.
	slots chan struct{}

	mu       sync.Mutex // held to begin a prefetch, and to close
	closed   bool
	underWay sync.WaitGroup
}

// New returns d read ahead of by up to depth bytes for each of its sequential readers. A device that is no block.Prefetcher is
// given a cache in memory of four times depth, where what comes is kept until it is read. d belongs to the layer, which
// closes it.
func New(d block.Device, depth int64) block.Device {
	if block.Has(d)&block.CanPrefetch == 0 {
		d = cached.New(d, 4*depth)
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &device{
		Lower: block.Lower{Device: d},
		runs:  NewRuns(depth),
		ctx:   ctx,
		stop:  stop,
		slots: make(chan struct{}, maxUnderWay),
	}
	return block.Expose(a, block.Has(d))
}

// ReadAt implements block.Device.
func (a *device) ReadAt(ctx context.Context, p []byte, off int64) error {
	n := int64(len(p))
	if n > 0 && block.CheckRange(a.Size(), off, n) == nil {
		if from, to := a.runs.Read(off, n, a.Size()); from < to {
			a.begin(from, to)
		}
	}
	return a.Device.ReadAt(ctx, p, off)
}

// begin has the device prefetch a range, unless it has enough to do. Nobody waits for it, and if it fails, the read of those
// bytes will say why.
func (a *device) begin(from, to int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	select {
	case a.slots <- struct{}{}:
	default:
		return
	}
	a.underWay.Go(func() {
		_ = a.Prefetch(a.ctx, from, to-from)
		<-a.slots
	})
}

// Close implements block.Device. It ends the prefetches and waits for them.
func (a *device) Close() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.stop()
	a.underWay.Wait()
	return a.Device.Close()
}
