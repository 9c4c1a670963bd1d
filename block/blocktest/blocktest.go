// Package blocktest has the conformance suite that every block.Device runs, and devices that misbehave on request.
package blocktest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/dnbd/dnbd/block"
)

// Conform checks that the devices that open returns keep the promises of block.Device and hold want's bytes. It calls open
// several times and closes what it opened.
func Conform(t *testing.T, want []byte, open func(t *testing.T) block.Device) {
	t.Helper()
	ctx := context.Background()
	size := int64(len(want))

	check := func(t *testing.T, d block.Device, off int64, n int) {
		t.Helper()
		got := make([]byte, n)
		if err := d.ReadAt(ctx, got, off); err != nil {
			t.Errorf("ReadAt(%d bytes, %d): %v", n, off, err)
		} else if !bytes.Equal(got, want[off:off+int64(n)]) {
			t.Errorf("ReadAt(%d bytes, %d): wrong bytes", n, off)
		}
	}

	t.Run("size", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		if d.Size() != size {
			t.Errorf("Size() = %d, want %d", d.Size(), size)
		}
	})
	t.Run("reads return the bytes", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		check(t, d, 0, len(want))
		check(t, d, size, 0)
		check(t, d, size-1, 1)
		rng := rand.New(rand.NewPCG(1, 2))
		for range 100 {
			off := rng.Int64N(size)
			check(t, d, off, int(rng.Int64N(min(size-off, 200_000)+1)))
		}
	})
	t.Run("reads beyond the end fail with ErrRange", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		for _, c := range []struct {
			off int64
			n   int
		}{{size, 1}, {size - 1, 2}, {-1, 1}, {size + 1, 0}, {1 << 62, 1}} {
			if err := d.ReadAt(ctx, make([]byte, c.n), c.off); !errors.Is(err, block.ErrRange) {
				t.Errorf("ReadAt(%d bytes, %d) = %v, want ErrRange", c.n, c.off, err)
			}
		}
		check(t, d, 0, 1)
	})
	t.Run("many readers at once", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		var wg sync.WaitGroup
		for seed := range uint64(8) {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, 7))
				for range 50 {
					off := rng.Int64N(size)
					check(t, d, off, int(min(size-off, 10_000)))
				}
			})
		}
		wg.Wait()
	})
	t.Run("closed", func(t *testing.T) {
		d := open(t)
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if err := d.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, block.ErrClosed) {
			t.Errorf("ReadAt after Close = %v, want ErrClosed", err)
		}
	})
}
