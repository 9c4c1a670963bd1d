package blocktest

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/dnbd/dnbd/block"
)

func TestMemoryConforms(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef!"), 30_000)
	Conform(t, data, func(*testing.T) block.Device { return NewMemory(data) })
}

func TestDiskConforms(t *testing.T) {
	ConformWritable(t, func(*testing.T) block.Device { return NewDisk(1<<20 + 777) })
}

// The suite is told from a device that has only what Writer has.
func TestWriterAloneConforms(t *testing.T) {
	ConformWritable(t, func(*testing.T) block.Device {
		d := NewDisk(1<<20 + 777)
		return struct {
			block.Device
			block.Writer
		}{d, d}
	})
}

func TestACrashLosesWhatWasNotFlushed(t *testing.T) {
	ctx := t.Context()
	d := NewDisk(3 * pageSize)
	fill := func(page int64, b byte, fua bool) {
		if err := d.WriteAt(ctx, bytes.Repeat([]byte{b}, pageSize), page*pageSize, fua); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want ...byte) {
		t.Helper()
		for page, b := range want {
			p := make([]byte, pageSize)
			if err := d.ReadAt(ctx, p, int64(page)*pageSize); err != nil || p[0] != b || p[pageSize-1] != b {
				t.Errorf("page %d is of %d, want %d: %v", page, p[0], b, err)
			}
		}
	}
	fill(0, 1, false)
	fill(1, 2, true)
	expect(1, 2, 0)
	d.Crash(nil)
	expect(0, 2, 0)
	fill(0, 3, false)
	if err := d.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	fill(0, 4, false)
	if err := d.Trim(ctx, pageSize, pageSize, false); err != nil {
		t.Fatal(err)
	}
	expect(4, 0, 0)
	d.Close()
	d.Crash(nil)
	expect(3, 2, 0)
	if err := d.Trim(ctx, 0, pageSize, true); err != nil {
		t.Fatal(err)
	}
	d.Crash(nil)
	expect(0, 2, 0)
	fill(0, 5, false)
	fill(1, 6, false)
	first := true
	d.Crash(func() bool { defer func() { first = false }(); return first })
	expect(5, 2, 0)
}

func TestFaultyAndGatedHaveWhatTheirDeviceHas(t *testing.T) {
	bad := errors.New("worn out")
	open := make(chan struct{})
	for _, d := range []block.Device{NewMemory(make([]byte, 10)), NewDisk(10)} {
		faulty := Faulty(d, func(block.Request) error { return bad })
		for name, err := range requests(t.Context(), faulty, 0, 1, true) {
			if !errors.Is(err, bad) {
				t.Errorf("%s of a faulty device: %v", name, err)
			}
		}
		gated := Gated(d, open)
		ended, end := context.WithCancel(t.Context())
		end()
		for name, err := range requests(ended, gated, 0, 1, true) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s of a gated device: %v", name, err)
			}
		}
		if block.Has(faulty) != block.Has(d) || block.Has(gated) != block.Has(d) {
			t.Errorf("%T became %b and %b of %b", d, block.Has(faulty), block.Has(gated), block.Has(d))
		}
	}
}
