package limit

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
)

func TestLimitConforms(t *testing.T) {
	blocktest.ConformWritable(t, func(*testing.T) block.Device { return New(blocktest.NewDisk(1<<20+777), 1<<40, 1<<20) })
}

// limited is a device of 1 MiB/s that lets 256 KiB pass at once.
func limited() block.Full {
	return New(blocktest.NewDisk(8<<20), 1<<20, 256<<10).(block.Full)
}

func TestTheRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := limited()
		p := make([]byte, 64<<10)
		begin := time.Now()
		for i := range 48 { // 3 MiB, every other one written
			var err error
			if i%2 == 0 {
				err = d.ReadAt(t.Context(), p, 0)
			} else {
				err = d.WriteAt(t.Context(), p, 0, false)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if took, want := time.Since(begin), 2750*time.Millisecond; took != want {
			t.Errorf("3 MiB took %v, want %v", took, want)
		}
	})
}

func TestManyShareTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := limited()
		begin := time.Now()
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				if err := d.ReadAt(t.Context(), make([]byte, 64<<10), 0); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took, want := time.Since(begin), 1750*time.Millisecond; took != want {
			t.Errorf("2 MiB took %v, want %v", took, want)
		}
	})
}

func TestAPauseSavesNoMoreThanTheBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := limited()
		time.Sleep(time.Hour)
		begin := time.Now()
		// More than the bucket holds.
		if err := d.ReadAt(t.Context(), make([]byte, 1<<20), 0); err != nil {
			t.Fatal(err)
		}
		if took, want := time.Since(begin), 750*time.Millisecond; took != want {
			t.Errorf("1 MiB took %v, want %v", took, want)
		}
	})
}

func TestWhatMovesNoBytesDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := limited()
		begin := time.Now()
		for _, err := range []error{
			d.Trim(t.Context(), 0, 8<<20, false), d.WriteZeroes(t.Context(), 0, 8<<20, true, false, false), d.Flush(t.Context()),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("waited %v", took)
		}
	})
}

func TestWhoGivesUpIsNotCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := limited()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := d.ReadAt(ctx, make([]byte, 8<<20), 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v, want the context's error", err)
		}
		begin := time.Now()
		if err := d.ReadAt(t.Context(), make([]byte, 256<<10), 0); err != nil || time.Since(begin) != 0 {
			t.Errorf("the next waited %v, %v", time.Since(begin), err)
		}
	})
}
