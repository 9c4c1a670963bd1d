package delay

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
)

func TestDelayConforms(t *testing.T) {
	blocktest.ConformWritable(t, func(*testing.T) block.Device {
		return New(blocktest.NewDisk(1<<20+777), time.Microsecond, 0)
	})
}

func TestEachRequestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(blocktest.NewDisk(1<<20), 2*time.Second, 5*time.Second).(block.Full)
		ctx := t.Context()
		p := make([]byte, 10)
		for _, c := range []struct {
			name    string
			request func() error
			want    time.Duration
		}{
			{"read", func() error { return d.ReadAt(ctx, p, 0) }, 2 * time.Second},
			{"prefetch", func() error { return d.Prefetch(ctx, 0, 10) }, 2 * time.Second},
			{"write", func() error { return d.WriteAt(ctx, p, 0, false) }, 5 * time.Second},
			{"trim", func() error { return d.Trim(ctx, 0, 10, false) }, 5 * time.Second},
			{"zero", func() error { return d.WriteZeroes(ctx, 0, 10, false, false, false) }, 5 * time.Second},
			{"flush", func() error { return d.Flush(ctx) }, 5 * time.Second},
		} {
			begin := time.Now()
			if err := c.request(); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			if took := time.Since(begin); took != c.want {
				t.Errorf("%s took %v, want %v", c.name, took, c.want)
			}
		}
	})
}

func TestAContextEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(blocktest.NewDisk(1<<20), time.Hour, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if err := d.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}
