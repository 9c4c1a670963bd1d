// Package limit is a layer that bounds how many bytes a second are read from and written to a device.
package limit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dnbd/dnbd/block"
)

// New returns d limited to rate bytes a second, which must be above 0, reads and writes together. After a pause up to burst
// bytes pass at once. Requests wait in the order in which they come; those that move no bytes do not wait. d belongs to the
// layer, which closes it.
func New(d block.Device, rate, burst int64) block.Device {
	b := &bucket{rate: float64(rate), burst: time.Duration(float64(burst) / float64(rate) * float64(time.Second))}
	return block.Around(d, func(ctx context.Context, r block.Request, do func() error) error {
		if r.Op == block.Read || r.Op == block.Write {
			if err := b.take(ctx, r.Len); err != nil {
				return fmt.Errorf("%v %d bytes at %d, waiting for its turn: %w", r.Op, r.Len, r.Off, err)
			}
		}
		return do()
	})
}

// bucket is a token bucket, kept as the time at which it will be empty of debt: a request moves that time on by what its
// bytes take, and waits until it is no later than now. So a request may be larger than the bucket.
type bucket struct {
	rate  float64       // bytes a second
	burst time.Duration // what may be used at once, as the time it takes to fill

	mu   sync.Mutex
	free time.Time // when all that was taken is paid for; a time long past is a full bucket
}

// take waits until n bytes may pass, or ctx ends.
func (b *bucket) take(ctx context.Context, n int64) error {
	cost := time.Duration(float64(n) / b.rate * float64(time.Second))
	b.mu.Lock()
	now := time.Now()
	if full := now.Add(-b.burst); b.free.Before(full) {
		b.free = full
	}
	b.free = b.free.Add(cost)
	wait := b.free.Sub(now)
	b.mu.Unlock()
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		// What did not pass is given back to those who come next.
		b.mu.Lock()
		b.free = b.free.Add(-cost)
		b.mu.Unlock()
		return ctx.Err()
	}
}
