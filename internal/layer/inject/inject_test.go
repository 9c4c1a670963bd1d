package inject

import (
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
)

func TestInjectConforms(t *testing.T) {
	blocktest.ConformWritable(t, func(*testing.T) block.Device { return New(blocktest.NewDisk(1<<20+777), 0, syscall.EIO, 1) })
}

// failures are the requests of a thousand that fail.
func failures(t *testing.T, rate float64, seed uint64) (failed []int) {
	d := New(blocktest.NewDisk(1<<20), rate, syscall.ENOSPC, seed)
	for i := range 1000 {
		switch err := d.ReadAt(t.Context(), make([]byte, 1), 0); {
		case errors.Is(err, syscall.ENOSPC):
			failed = append(failed, i)
		case err != nil:
			t.Fatal(err)
		}
	}
	return failed
}

func TestRequestsFailAtTheRate(t *testing.T) {
	for _, c := range []struct {
		rate     float64
		from, to int
	}{{0, 0, 0}, {0.1, 50, 200}, {1, 1000, 1000}} {
		if got := len(failures(t, c.rate, 1)); got < c.from || got > c.to {
			t.Errorf("at a rate of %v %d of 1000 failed", c.rate, got)
		}
	}
}

func TestASeedFailsTheSameRequests(t *testing.T) {
	a, b, other := failures(t, 0.1, 1), failures(t, 0.1, 1), failures(t, 0.1, 2)
	if !slices.Equal(a, b) || slices.Equal(a, other) {
		t.Errorf("seed 1: %v, again %v, seed 2: %v", a, b, other)
	}
}

func TestARequestThatFailsIsNotMade(t *testing.T) {
	disk := blocktest.NewDisk(1 << 20)
	d := New(disk, 1, syscall.EIO, 1).(block.Full)
	for name, err := range map[string]error{
		"write": d.WriteAt(t.Context(), []byte{1}, 0, false),
		"flush": d.Flush(t.Context()),
	} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if disk.Allocated() != 0 {
		t.Error("a write that failed was made")
	}
}
