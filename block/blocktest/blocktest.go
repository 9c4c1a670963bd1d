// Package blocktest has the conformance suites that every block.Device runs, and devices that misbehave on request.
package blocktest

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/dnbd/dnbd/block"
)

// Conform checks that the devices that open returns keep the promises of block.Device, and of block.Prefetcher and
// block.Mapper where they have them, and hold want's bytes. It changes nothing, calls open several times and closes what it
// opened.
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
	t.Run("what will be read can be said", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		p, ok := d.(block.Prefetcher)
		if !ok {
			return
		}
		for _, c := range []struct{ off, n int64 }{{0, size}, {size, 0}, {size / 3, size / 3}} {
			if err := p.Prefetch(ctx, c.off, c.n); err != nil {
				t.Errorf("Prefetch(%d, %d): %v", c.off, c.n, err)
			}
			check(t, d, c.off, int(c.n))
		}
	})
	t.Run("extents agree with the bytes", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		rng := rand.New(rand.NewPCG(3, 4))
		checkExtents(t, d, want, 0, size)
		checkExtents(t, d, want, size, 0)
		for range 30 {
			off := rng.Int64N(size)
			checkExtents(t, d, want, off, rng.Int64N(size-off)+1)
		}
	})
	t.Run("requests beyond the end fail with ErrRange", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		for _, c := range beyond(size) {
			for name, err := range requests(ctx, d, c.off, c.n, false) {
				if !errors.Is(err, block.ErrRange) {
					t.Errorf("%s(%d, %d) = %v, want ErrRange", name, c.off, c.n, err)
				}
			}
		}
	})
	t.Run("closed", func(t *testing.T) {
		d := open(t)
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		for name, err := range requests(ctx, d, 0, 1, false) {
			if !errors.Is(err, block.ErrClosed) {
				t.Errorf("%s after Close = %v, want ErrClosed", name, err)
			}
		}
	})
}

// piece is a range of a device.
type piece struct{ off, n int64 }

// beyond returns ranges that leave a device of size bytes.
func beyond(size int64) []piece {
	return []piece{{size, 1}, {size - 1, 2}, {-1, 1}, {size + 1, 0}, {1 << 62, 1}}
}

// requests makes one request of each kind that d takes, for one range, and yields what came of each. Those that change d
// are made if changing.
func requests(ctx context.Context, d block.Device, off, n int64, changing bool) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		more := yield("ReadAt", d.ReadAt(ctx, make([]byte, n), off))
		if p, ok := d.(block.Prefetcher); ok && more {
			more = yield("Prefetch", p.Prefetch(ctx, off, n))
		}
		if m, ok := d.(block.Mapper); ok && more {
			more = yield("Extents", m.Extents(ctx, off, n, func(int64, bool, bool) bool { return true }))
		}
		if !changing {
			return
		}
		if w, ok := d.(block.Writer); ok && more {
			more = yield("WriteAt", w.WriteAt(ctx, make([]byte, n), off, true))
		}
		if t, ok := d.(block.Trimmer); ok && more {
			more = yield("Trim", t.Trim(ctx, off, n, false))
		}
		if z, ok := d.(block.Zeroer); ok && more {
			yield("WriteZeroes", z.WriteZeroes(ctx, off, n, true, false, false))
		}
	}
}

// checkExtents checks that what d says of a range, if it has a map, is whole, in order, and true of bytes, which are the
// device's.
func checkExtents(t *testing.T, d block.Device, bytes []byte, off, n int64) {
	t.Helper()
	m, ok := d.(block.Mapper)
	if !ok {
		return
	}
	at, first := off, true
	err := m.Extents(context.Background(), off, n, func(run int64, hole, zero bool) bool {
		if run <= 0 || run > int64(len(bytes))-at {
			t.Errorf("Extents(%d, %d): a run of %d bytes at %d of a device of %d", off, n, run, at, len(bytes))
			return false
		}
		if !first && at >= off+n {
			t.Errorf("Extents(%d, %d): a run that begins at %d", off, n, at)
		}
		if zero && slices.ContainsFunc(bytes[at:at+run], func(b byte) bool { return b != 0 }) {
			t.Errorf("Extents(%d, %d): %d bytes at %d are not zero", off, n, run, at)
		}
		at, first = at+run, false
		return true
	})
	if err != nil {
		t.Errorf("Extents(%d, %d): %v", off, n, err)
	} else if at < off+n {
		t.Errorf("Extents(%d, %d): ends at %d", off, n, at)
	}
	calls := 0
	err = m.Extents(context.Background(), off, n, func(int64, bool, bool) bool { calls++; return false })
	if err != nil || calls > 1 {
		t.Errorf("Extents(%d, %d), stopped at once: %d runs, %v", off, n, calls, err)
	}
}
