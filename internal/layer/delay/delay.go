// Package delay is a layer that makes a device slow: for tests of what is above it.
package delay

import (
	"context"
	"fmt"
	"time"

	"github.com/dnbd/dnbd/block"
)

// New returns d with a delay before each request: change before those that change what it holds and before flushes, ask before
// all others. Requests that come together wait together. d belongs to the layer, which closes it.
func New(d block.Device, ask, change time.Duration) block.Device {
	return block.Around(d, func(ctx context.Context, r block.Request, do func() error) error {
		wait := ask
		if r.Op.Changes() || r.Op == block.Flush {
			wait = change
		}
		if wait > 0 {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return fmt.Errorf("%v %d bytes at %d, delayed: %w", r.Op, r.Len, r.Off, ctx.Err())
			}
		}
		return do()
	})
}
