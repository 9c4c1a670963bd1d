package image

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
)

func TestAnImageConforms(t *testing.T) {
	data := randomBytes(300_001, 1)
	clear(data[70_000:200_000])
	path := writeImage(t, data)
	for _, blockSize := range []int{4096, 65536} {
		mustCreate(t, path, CreateOptions{BlockSize: blockSize})
		blocktest.Conform(t, data, func(t *testing.T) block.Device { return mustOpen(t, path) })
	}
}

// Nothing of a block is read without a look at all of it.
func TestAPartOfADamagedBlockIsRefused(t *testing.T) {
	data := randomBytes(10*4096, 1)
	path := writeImage(t, data)
	m := mustCreate(t, path, CreateOptions{BlockSize: 4096})
	data[5*4096] ^= 1
	overwrite(t, path, data)
	p := make([]byte, 100)
	if err := m.ReadAt(t.Context(), p, 5*4096+200); !errors.Is(err, block.ErrCorrupt) {
		t.Errorf("ReadAt in the damaged block = %v, want block.ErrCorrupt", err)
	}
	if err := m.ReadAt(t.Context(), p, 6*4096-50); !errors.Is(err, block.ErrCorrupt) {
		t.Errorf("ReadAt over its end = %v, want block.ErrCorrupt", err)
	}
	if err := m.ReadAt(t.Context(), p, 6*4096); err != nil || !bytes.Equal(p, data[6*4096:][:100]) {
		t.Errorf("ReadAt behind it: %v", err)
	}
}

func TestExtentsOfAnImageAreItsZeroBlocks(t *testing.T) {
	data := randomBytes(9*4096+5, 1)
	clear(data[2*4096 : 5*4096])
	clear(data[9*4096:])
	m := mustCreate(t, writeImage(t, data), CreateOptions{BlockSize: 4096})
	type extent struct {
		n    int64
		zero bool
	}
	for _, c := range []struct {
		off, n int64
		want   []extent
	}{
		{0, int64(len(data)), []extent{{2 * 4096, false}, {3 * 4096, true}, {4 * 4096, false}, {5, true}}},
		{4096 + 1, 4096, []extent{{4095, false}, {4096, true}}},
		{3*4096 + 7, 1, []extent{{4096 - 7, true}}},
		{0, 0, nil},
	} {
		var got []extent
		if err := m.Extents(t.Context(), c.off, c.n, func(n int64, hole, zero bool) bool {
			if hole != zero {
				t.Error("a hole is what is zero")
			}
			got = append(got, extent{n, zero})
			return true
		}); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(c.want) {
			t.Errorf("extents of %d bytes at %d: %v, want %v", c.n, c.off, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("extents of %d bytes at %d: %v, want %v", c.n, c.off, got, c.want)
			}
		}
	}
	if err := m.Extents(t.Context(), 1, int64(len(data)), nil); !errors.Is(err, block.ErrRange) {
		t.Errorf("extents beyond the end = %v, want block.ErrRange", err)
	}
	stop := 0
	if err := m.Extents(context.Background(), 0, int64(len(data)), func(int64, bool, bool) bool { stop++; return false }); err != nil || stop != 1 {
		t.Errorf("yield said stop, and was called %d times (%v)", stop, err)
	}
}
