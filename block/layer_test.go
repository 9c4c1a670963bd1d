package block_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
)

// shapes are devices of many kinds, by what they have.
func shapes() map[block.Caps]block.Device {
	d := blocktest.NewDisk(1 << 20)
	return map[block.Caps]block.Device{
		0: struct{ block.Device }{d},
		block.CanPrefetch: struct {
			block.Device
			block.Prefetcher
		}{d, d},
		block.CanMap: struct {
			block.Device
			block.Mapper
		}{d, d},
		block.CanPrefetch | block.CanMap: struct {
			block.Device
			block.Prefetcher
			block.Mapper
		}{d, d, d},
		block.CanTrim: struct {
			block.Device
			block.Trimmer
		}{d, d},
		block.CanWrite: struct {
			block.Device
			block.Writer
		}{d, d},
		block.CanWrite | block.CanFlush: struct {
			block.Device
			block.Writer
			block.Flusher
		}{d, d, d},
		block.CanWrite | block.CanTrim: struct {
			block.Device
			block.Writer
			block.Trimmer
		}{d, d, d},
		all: d,
	}
}

const (
	all  = block.CanWrite | block.CanFlush | block.CanTrim | block.CanZero | block.CanPrefetch | block.CanMap
	more = block.CanTrim | block.CanZero | block.CanPrefetch | block.CanMap
)

func TestHasTellsEachCapability(t *testing.T) {
	for want, d := range shapes() {
		if got := block.Has(d); got != want {
			t.Errorf("Has = %b, want %b", got, want)
		}
	}
}

func TestALayerNeitherLosesNorInventsCapabilities(t *testing.T) {
	through := func(_ context.Context, _ block.Request, do func() error) error { return do() }
	for caps, d := range shapes() {
		want := caps | more
		if caps&block.CanWrite == 0 {
			want = caps & (block.CanPrefetch | block.CanMap)
		}
		layer := block.Around(block.Around(d, through), through)
		if got := block.Has(layer); got != want {
			t.Errorf("a layer over %b has %b, want %b", caps, got, want)
		}
		if got := block.Has(block.ReadOnly(layer)); got != want&(block.CanPrefetch|block.CanMap) {
			t.Errorf("read-only, a layer over %b has %b", caps, got)
		}
	}
}

func TestLayersConform(t *testing.T) {
	through := func(_ context.Context, _ block.Request, do func() error) error { return do() }
	for caps := range shapes() {
		if caps&block.CanWrite == 0 {
			continue
		}
		blocktest.ConformWritable(t, func(*testing.T) block.Device { return block.Around(shapes()[caps], through) })
	}
	data := bytes.Repeat([]byte("only read"), 50_000)
	blocktest.Conform(t, data, func(*testing.T) block.Device { return block.Around(blocktest.NewMemory(data), through) })
}

func TestWhoBorrowsADeviceDoesNotCloseIt(t *testing.T) {
	blocktest.ConformWritable(t, func(*testing.T) block.Device { return block.Borrow(blocktest.NewDisk(1<<20 + 777)) })

	d := blocktest.NewDisk(1 << 20)
	one, other := block.Borrow(d), block.Borrow(d)
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	for _, open := range []block.Device{other, d} {
		if err := open.ReadAt(t.Context(), make([]byte, 10), 0); err != nil {
			t.Error(err)
		}
	}
}

// A device that lacks a method says so also to those who did not ask what it has.
func TestLowerRefusesWhatCannotBeMadeGood(t *testing.T) {
	ctx := t.Context()
	l := block.Lower{Device: blocktest.NewMemory(make([]byte, 100))}
	for name, err := range map[string]error{
		"WriteAt":     l.WriteAt(ctx, make([]byte, 1), 0, false),
		"Flush":       l.Flush(ctx),
		"WriteZeroes": l.WriteZeroes(ctx, 0, 1, false, false, false),
	} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v, want errors.ErrUnsupported", name, err)
		}
	}
}

func TestZeroesThatAreWrittenAreForced(t *testing.T) {
	const size = 1 << 20
	for _, flushes := range []bool{false, true} {
		disk := blocktest.NewDisk(size)
		var d block.Device = struct {
			block.Device
			block.Writer
		}{disk, disk}
		if flushes {
			d = struct {
				block.Device
				block.Writer
				block.Flusher
			}{disk, disk, disk}
		}
		ones := bytes.Repeat([]byte{1}, size)
		if err := disk.WriteAt(t.Context(), ones, 0, true); err != nil {
			t.Fatal(err)
		}
		if err := (block.Lower{Device: d}).WriteZeroes(t.Context(), 0, size, false, false, true); err != nil {
			t.Fatal(err)
		}
		disk.Crash(nil)
		got := make([]byte, size)
		if err := disk.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, make([]byte, size)) {
			t.Errorf("flushes=%v: forced zeroes did not outlive a crash: %v", flushes, err)
		}
	}
}

func TestAroundSeesEachRequest(t *testing.T) {
	var seen []block.Request
	d := block.Around(blocktest.NewDisk(1<<20), func(_ context.Context, r block.Request, do func() error) error {
		seen = append(seen, r)
		return do()
	}).(block.Full)
	ctx := t.Context()
	yield := func(int64, bool, bool) bool { return true }
	for _, err := range []error{
		d.ReadAt(ctx, make([]byte, 10), 1), d.WriteAt(ctx, make([]byte, 10), 2, true), d.Flush(ctx),
		d.Trim(ctx, 3, 10, false), d.WriteZeroes(ctx, 4, 10, false, false, true),
		d.Prefetch(ctx, 5, 10), d.Extents(ctx, 6, 10, yield),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []block.Request{
		{block.Read, 1, 10, false},
		{block.Write, 2, 10, true},
		{block.Flush, 0, 0, false},
		{block.Trim, 3, 10, false},
		{block.Zero, 4, 10, true},
		{block.Prefetch, 5, 10, false},
		{block.Map, 6, 10, false},
	}
	for i, r := range want {
		if i >= len(seen) || seen[i] != r {
			t.Fatalf("saw %v, want %v", seen, want)
		}
	}
}
