// Package inject is a layer that makes a device fail now and then: for tests of what is above it.
package inject

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"

	"github.com/dnbd/dnbd/block"
)

// New returns d with errors: each request fails with errno with a chance of rate, from 0 (never) to 1 (always), and is
// then not made. The same seed fails the same requests, by the order in which they come. d belongs to the layer, which
// closes it.
func New(d block.Device, rate float64, errno syscall.Errno, seed uint64) block.Device {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 0))
	unlucky := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return rng.Float64() < rate
	}
	return block.Around(d, func(_ context.Context, r block.Request, do func() error) error {
		if unlucky() {
			return fmt.Errorf("%v %d bytes at %d, made to fail: %w", r.Op, r.Len, r.Off, errno)
		}
		return do()
	})
}
