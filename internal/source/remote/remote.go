// Package remote makes a block.Device of an export of an NBD server.
package remote

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/nbd"
)

// Open connects to the export that an NBD URI names. The device has the capabilities that the server announced. ctx is for connecting
// only; config says how long to try to get back to a server that is lost.
func Open(ctx context.Context, uri string, config nbd.DialConfig) (block.Device, error) {
	c, err := nbd.Dial(ctx, uri, config)
	if err != nil {
		return nil, err
	}
	d := &device{client: c, name: uri, info: c.Info()}
	var caps block.Caps
	if !d.info.ReadOnly {
		caps |= block.CanWrite
		if d.info.Flush {
			caps |= block.CanFlush
		}
	}
	if d.info.Cache {
		caps |= block.CanPrefetch
	}
	if slices.Contains(d.info.Contexts, nbd.ContextAllocation) {
		caps |= block.CanMap
	}
	return block.Expose(d, caps), nil
}

// device is a client with a method for every capability. Expose hides those that are not the server's.
type device struct {
	client *nbd.Client
	name   string
	info   nbd.ClientInfo
	closed atomic.Bool
}

// check returns the error of a request that cannot be made: the client's own errors are not of block's kinds.
func (d *device) check(ctx context.Context, off, n int64) error {
	if err := block.CheckRange(d.Size(), off, n); err != nil {
		return fmt.Errorf("%s: %w", d.name, err)
	}
	if d.closed.Load() {
		return fmt.Errorf("%s: %w", d.name, block.ErrClosed)
	}
	return ctx.Err()
}

// do makes a request, unless it has nothing to do.
func (d *device) do(ctx context.Context, off, n int64, request func() error) error {
	if err := d.check(ctx, off, n); err != nil || n == 0 {
		return err
	}
	err := request()
	if err != nil && d.closed.Load() {
		return fmt.Errorf("%s: %w", d.name, block.ErrClosed)
	}
	return err
}

// Size implements block.Device.
func (d *device) Size() int64 { return d.client.Size() }

// Close implements block.Device.
func (d *device) Close() error {
	d.closed.Store(true)
	return d.client.Close()
}

// ReadAt implements block.Device.
func (d *device) ReadAt(ctx context.Context, p []byte, off int64) error {
	return d.do(ctx, off, int64(len(p)), func() error { return d.client.ReadAt(ctx, p, off) })
}

// WriteAt implements block.Writer.
func (d *device) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	return d.do(ctx, off, int64(len(p)), func() error { return d.client.WriteAt(ctx, p, off, fua) })
}

// Flush implements block.Flusher.
func (d *device) Flush(ctx context.Context) error {
	if err := d.check(ctx, 0, 0); err != nil {
		return err
	}
	return d.client.Flush(ctx)
}

// Trim implements block.Trimmer. Where the server knows no trimming nothing is given back, which is as good.
func (d *device) Trim(ctx context.Context, off, n int64, fua bool) error {
	return d.do(ctx, off, n, func() error {
		if !d.info.Trim {
			return nil
		}
		return d.client.Trim(ctx, off, n, fua)
	})
}

// WriteZeroes implements block.Zeroer.
func (d *device) WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error {
	return d.do(ctx, off, n, func() error {
		if d.info.WriteZeroes {
			return d.client.WriteZeroes(ctx, off, n, hole, fast, fua)
		}
		return d.plain().WriteZeroes(ctx, off, n, hole, fast, fua)
	})
}

// plain is the device without what not every server has.
func (d *device) plain() block.Lower {
	if !d.info.Flush {
		return block.Lower{Device: struct {
			block.Device
			block.Writer
		}{d, d}}
	}
	return block.Lower{Device: struct {
		block.Device
		block.Writer
		block.Flusher
	}{d, d, d}}
}

// Prefetch implements block.Prefetcher.
func (d *device) Prefetch(ctx context.Context, off, n int64) error {
	return d.do(ctx, off, n, func() error {
		if !d.info.Cache {
			return nil
		}
		return d.client.Prefetch(ctx, off, n)
	})
}

// Extents implements block.Mapper.
func (d *device) Extents(ctx context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error {
	return d.do(ctx, off, n, func() error {
		if !slices.Contains(d.info.Contexts, nbd.ContextAllocation) {
			yield(n, false, false)
			return nil
		}
		return d.client.Extents(ctx, off, n, yield)
	})
}
