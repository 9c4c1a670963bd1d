package readahead

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/layer/delay"
)

const depth = 2 << 20

func TestReadaheadConforms(t *testing.T) {
	blocktest.ConformWritable(t, func(*testing.T) block.Device { return New(blocktest.NewDisk(1<<20+777), depth) })
	data := bytes.Repeat([]byte("read ahead"), 200_000)
	blocktest.Conform(t, data, func(*testing.T) block.Device { return New(blocktest.NewMemory(data), depth) })
}

func TestARunIsReadAheadOfEverDeeper(t *testing.T) {
	const k, size = 1 << 10, 64 << 20
	r := NewRuns(depth)
	asked, deepest := int64(0), int64(0)
	for off := int64(0); off < size; off += 64 * k {
		from, to := r.Read(off, 64*k, size)
		if off == 0 && from < to {
			t.Errorf("one read is no run, yet %d to %d", from, to)
		}
		if from == to {
			continue
		}
		if asked > 0 && from != asked {
			t.Errorf("at %d: asks for %d to %d, after it had asked up to %d", off, from, to, asked)
		}
		asked, deepest = to, max(deepest, to-off-64*k)
	}
	if asked != size || deepest != depth {
		t.Errorf("asked up to %d of %d, at most %d ahead, want %d", asked, size, deepest, depth)
	}
}

func TestRunsAreToldApart(t *testing.T) {
	const size, n = 1 << 40, 64 << 10
	r := NewRuns(depth)
	var asked [maxRuns]bool
	for i := range int64(10) {
		for run := range int64(maxRuns) {
			// Those of a real reader come out of order: 1 0 3 2 5 4 …
			if from, to := r.Read(run<<36+(i^1)*n, n, size); from < to {
				asked[run] = true
				if from < run<<36 || to > run<<36+10*n+depth {
					t.Errorf("run %d asks for %d to %d", run, from, to)
				}
			}
		}
	}
	if slices.Contains(asked[:], false) {
		t.Errorf("runs that were found: %v", asked)
	}
}

func TestReadsHereAndThereAreNoRun(t *testing.T) {
	r := NewRuns(depth)
	for i := range int64(1000) {
		off := i * 7_919 % 1000 * (1 << 20)
		if from, to := r.Read(off, 4096, 1<<30); from < to {
			t.Errorf("read %d at %d asks for %d to %d", i, off, from, to)
		}
		// The same again is none either.
		if from, to := r.Read(off, 4096, 1<<30); from < to {
			t.Errorf("the same again at %d asks for %d to %d", off, from, to)
		}
	}
}

func TestASequentialReaderOfAFarDeviceWaitsLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, n = 32 << 20, 64 << 10
		const far = 10 * time.Millisecond
		d := New(delay.New(blocktest.NewMemory(make([]byte, size)), far, 0), depth)
		defer d.Close()
		begin := time.Now()
		for off := int64(0); off < size; off += n {
			if err := d.ReadAt(t.Context(), make([]byte, n), off); err != nil {
				t.Fatal(err)
			}
		}
		if took, alone := time.Since(begin), size/n*far; took > alone/4 {
			t.Errorf("%v, where %v would do without", took, alone)
		}
	})
}

func TestPrefetchesAreBoundedAndEndWithTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		underWay, most := 0, 0
		var errs []error
		mu := make(chan struct{}, 1)
		stuck := block.Around(blocktest.NewDisk(1<<30), func(ctx context.Context, r block.Request, do func() error) error {
			if r.Op != block.Prefetch {
				return do()
			}
			mu <- struct{}{}
			underWay++
			most = max(most, underWay)
			<-mu
			<-ctx.Done()
			mu <- struct{}{}
			underWay--
			errs = append(errs, ctx.Err())
			<-mu
			return ctx.Err()
		})
		d := New(stuck, depth)
		for i := range int64(1000) {
			if err := d.ReadAt(t.Context(), make([]byte, 64<<10), i<<16); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if most != maxUnderWay {
			t.Errorf("%d prefetches at once, want %d", most, maxUnderWay)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if underWay != 0 || len(errs) != maxUnderWay {
			t.Errorf("%d are under way after Close, %d have ended", underWay, len(errs))
		}
		if err := d.ReadAt(t.Context(), make([]byte, 64<<10), 1000<<16); !errors.Is(err, block.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
	})
}
