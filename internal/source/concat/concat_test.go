package concat

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
)

// sizes are of parts whose ends lie anywhere; a part of nothing is among them.
var sizes = []int64{70_000, 1, 0, 4096, 100_001}

// whole makes a device of disks, of each of which one byte is left over.
func whole(t *testing.T) block.Device {
	t.Helper()
	var parts []Part
	for _, n := range sizes {
		parts = append(parts, Part{blocktest.NewDisk(n + 1), n})
	}
	d, err := New(parts)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConcatConforms(t *testing.T) {
	var data []byte
	for i, n := range sizes {
		data = append(data, bytes.Repeat([]byte{byte(i + 1)}, int(n))...)
	}
	blocktest.Conform(t, data, func(t *testing.T) block.Device {
		var parts []Part
		rest := data
		for _, n := range sizes {
			parts = append(parts, Part{blocktest.NewMemory(append(slices.Clone(rest[:n]), 'x')), n})
			rest = rest[n:]
		}
		d, err := New(parts)
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
	blocktest.ConformWritable(t, whole)
}

func TestOneThatCannotBeWrittenMakesAllSo(t *testing.T) {
	d, err := New([]Part{{blocktest.NewDisk(10), 10}, {block.ReadOnly(blocktest.NewDisk(10)), 10}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := block.Has(d), block.CanPrefetch|block.CanMap; got != want {
		t.Errorf("capabilities %b, want %b", got, want)
	}
}

func TestExtentsEndWithTheirParts(t *testing.T) {
	one, two := blocktest.NewDisk(8192), blocktest.NewDisk(8192)
	if err := two.WriteAt(t.Context(), []byte("x"), 0, false); err != nil {
		t.Fatal(err)
	}
	d, err := New([]Part{{one, 5000}, {two, 8192}})
	if err != nil {
		t.Fatal(err)
	}
	type extent struct {
		n    int64
		hole bool
	}
	var got []extent
	err = d.(block.Mapper).Extents(t.Context(), 0, d.Size(), func(n int64, hole, _ bool) bool {
		if last := len(got) - 1; last >= 0 && got[last].hole == hole {
			got[last].n += n
			return true
		}
		got = append(got, extent{n, hole})
		return true
	})
	if want := []extent{{5000, true}, {512, false}, {7680, true}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("extents %v, %v, want %v", got, err, want)
	}
}

func TestPartsThatCannotBeAreRefused(t *testing.T) {
	huge := block.ReadOnly(blocktest.NewDisk(math.MaxInt64))
	for name, parts := range map[string][]Part{
		"none":      nil,
		"too short": {{blocktest.NewDisk(5), 6}},
		"negative":  {{blocktest.NewDisk(5), -1}},
		"too large": {{huge, math.MaxInt64}, {blocktest.NewDisk(5), 1}},
	} {
		if d, err := New(parts); err == nil {
			t.Errorf("%s: made %v", name, d)
		}
	}
}
