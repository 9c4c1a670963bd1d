package cow

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
)

const size = 1<<20 + 777

// baseBytes are bytes without a pattern, with a few blocks of zeroes.
func baseBytes() []byte {
	p := make([]byte, size)
	rand.NewChaCha8([32]byte{7}).Read(p)
	clear(p[40<<10 : 80<<10])
	return p
}

// sparse returns a device that holds p and knows where it is zero.
func sparse(t *testing.T, p []byte) block.Device {
	t.Helper()
	d := blocktest.NewDisk(int64(len(p)))
	for off := 0; off < len(p); off += BlockSize {
		b := p[off:min(off+BlockSize, len(p))]
		if bytes.Equal(b, make([]byte, len(b))) {
			continue
		}
		if err := d.WriteAt(t.Context(), b, int64(off), true); err != nil {
			t.Fatal(err)
		}
	}
	return block.ReadOnly(d)
}

// full returns a device of n bytes that hold anything but zero.
func full(t *testing.T, n int64) *blocktest.Disk {
	t.Helper()
	d := blocktest.NewDisk(n)
	if err := d.WriteAt(t.Context(), bytes.Repeat([]byte{0xee}, int(n)), 0, true); err != nil {
		t.Fatal(err)
	}
	return d
}

func openTemporary(t *testing.T, base, scratch block.Device) *Device {
	t.Helper()
	d, err := Temporary(base, scratch)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTemporaryConforms(t *testing.T) {
	blocktest.ConformWritable(t, func(t *testing.T) block.Device {
		return openTemporary(t, blocktest.NewMemory(baseBytes()), full(t, size))
	})
}

// A cow over a cow is as good as any device.
func TestTwoOverlaysConform(t *testing.T) {
	blocktest.ConformWritable(t, func(t *testing.T) block.Device {
		lower := openTemporary(t, sparse(t, baseBytes()), blocktest.NewDisk(size))
		if err := lower.WriteAt(t.Context(), make([]byte, 10_000), 1000, false); err != nil {
			t.Fatal(err)
		}
		return openTemporary(t, block.ReadOnly(lower), blocktest.NewDisk(size))
	})
}

func TestTheBaseIsNeverWrittenTo(t *testing.T) {
	base := full(t, size)
	d := openTemporary(t, base, blocktest.NewDisk(size))
	ctx := t.Context()
	for _, err := range []error{
		d.WriteAt(ctx, make([]byte, 10_000), 100, true),
		d.WriteZeroes(ctx, 50_000, 100_000, true, false, true),
		d.Trim(ctx, 0, size, true),
		d.Flush(ctx),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	got := make([]byte, size)
	if err := base.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{0xee}, size)) {
		t.Errorf("the base has changed: %v", err)
	}
}

func TestWhatIsTrimmedGivesItsSpaceBack(t *testing.T) {
	scratch := blocktest.NewDisk(size)
	d := openTemporary(t, full(t, size), scratch)
	ctx := t.Context()
	for name, free := range map[string]func() error{
		"Trim":        func() error { return d.Trim(ctx, 0, 1<<20, false) },
		"WriteZeroes": func() error { return d.WriteZeroes(ctx, 0, 1<<20, true, true, false) },
	} {
		if err := d.WriteAt(ctx, bytes.Repeat([]byte{1}, 1<<20), 0, false); err != nil {
			t.Fatal(err)
		}
		if got := scratch.Allocated(); got != 1<<20 {
			t.Errorf("1 MiB takes %d bytes", got)
		}
		if err := free(); err != nil || scratch.Allocated() != 0 {
			t.Errorf("%s left %d bytes, %v", name, scratch.Allocated(), err)
		}
	}
}

func TestExtentsOfBothThatAreAlikeAreOne(t *testing.T) {
	// The base has zeroes from 40 KiB to 80 KiB.
	d := openTemporary(t, sparse(t, baseBytes()), blocktest.NewDisk(size))
	ctx := t.Context()
	for _, err := range []error{
		d.WriteZeroes(ctx, 20<<10, 28<<10, true, false, false), // on both sides of the border
		d.WriteAt(ctx, make([]byte, 8<<10), 100<<10, false),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	type extent struct {
		n          int64
		hole, zero bool
	}
	var got []extent
	if err := d.Extents(ctx, 0, 200<<10, func(n int64, hole, zero bool) bool {
		got = append(got, extent{n, hole, zero})
		return true
	}); err != nil {
		t.Fatal(err)
	}
	want := []extent{{20 << 10, false, false}, {60 << 10, true, true}, {120 << 10, false, false}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestAWholeBlockNeedsNothingFromTheBase(t *testing.T) {
	bad := errors.New("the base is away")
	base := blocktest.Faulty(blocktest.NewMemory(make([]byte, size)), func(block.Request) error { return bad })
	d := openTemporary(t, base, blocktest.NewDisk(size))
	if err := d.WriteAt(t.Context(), make([]byte, 2*BlockSize), BlockSize, false); err != nil {
		t.Errorf("whole blocks: %v", err)
	}
	last := int64(size - size%BlockSize)
	if err := d.WriteAt(t.Context(), make([]byte, size-last), last, false); err != nil {
		t.Errorf("the last block, which is short: %v", err)
	}
	if err := d.WriteAt(t.Context(), make([]byte, BlockSize), 1, false); !errors.Is(err, bad) {
		t.Errorf("a part of a block: %v, want the base's error", err)
	}
}

func TestAWriteToABlockThatIsCopiedWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		base := blocktest.Gated(full(t, size), gate)
		d := openTemporary(t, base, blocktest.NewDisk(size))
		ctx := t.Context()
		results := make(chan error, 2)
		go func() { results <- d.WriteAt(ctx, []byte{1}, 10, false) }() // copies block 0 from the base, when the gate opens
		synctest.Wait()
		go func() { results <- d.WriteAt(ctx, bytes.Repeat([]byte{2}, BlockSize), 0, false) }()
		synctest.Wait()
		if len(results) != 0 {
			t.Fatal("a write did not wait")
		}
		// Another block is free, and who waits may give up.
		if err := d.WriteAt(ctx, bytes.Repeat([]byte{3}, BlockSize), BlockSize, false); err != nil {
			t.Errorf("another block: %v", err)
		}
		ended, end := context.WithCancel(ctx)
		end()
		if err := d.WriteAt(ended, make([]byte, BlockSize), 0, false); !errors.Is(err, context.Canceled) {
			t.Errorf("a write that gives up: %v", err)
		}
		close(gate)
		for range 2 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		got := make([]byte, BlockSize)
		if err := d.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{2}, BlockSize)) {
			t.Errorf("the block that was written last begins with %x, %v", got[:16], err)
		}
	})
}

func TestAScratchThatDoesNotFitIsRefused(t *testing.T) {
	base := blocktest.NewMemory(make([]byte, size))
	if _, err := Temporary(base, blocktest.NewDisk(size-1)); err == nil {
		t.Error("a scratch that is too small was taken")
	}
	if _, err := Temporary(base, blocktest.NewMemory(make([]byte, size))); err == nil {
		t.Error("a scratch that cannot be written to was taken")
	}
}
