// Package layer_test stacks the layers on one another.
package layer_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/layer/cached"
	"github.com/dnbd/dnbd/internal/layer/cow"
	"github.com/dnbd/dnbd/internal/layer/delay"
	"github.com/dnbd/dnbd/internal/layer/inject"
	"github.com/dnbd/dnbd/internal/layer/limit"
	"github.com/dnbd/dnbd/internal/layer/overlay"
	"github.com/dnbd/dnbd/internal/layer/readahead"
	"github.com/dnbd/dnbd/internal/layer/trace"
)

const size = 1<<20 + 777

// layers are all layers, set so that they do no harm.
var layers = map[string]func(t *testing.T, d block.Device) block.Device{
	"cached":    func(_ *testing.T, d block.Device) block.Device { return cached.New(d, 5*cached.BlockSize) },
	"delay":     func(_ *testing.T, d block.Device) block.Device { return delay.New(d, 0, 0) },
	"inject":    func(_ *testing.T, d block.Device) block.Device { return inject.New(d, 0, syscall.EIO, 1) },
	"limit":     func(_ *testing.T, d block.Device) block.Device { return limit.New(d, 1<<40, 1<<30) },
	"readahead": func(_ *testing.T, d block.Device) block.Device { return readahead.New(d, 1<<20) },
	"trace": func(_ *testing.T, d block.Device) block.Device {
		return trace.New(d, slog.New(slog.NewTextHandler(io.Discard, nil)))
	},
	"cow": func(t *testing.T, d block.Device) block.Device {
		c, err := cow.Temporary(d, blocktest.NewDisk(d.Size()))
		if err != nil {
			t.Fatal(err)
		}
		return c
	},
	"overlay": func(t *testing.T, d block.Device) block.Device {
		o, err := overlay.Open(t.Context(), d, blocktest.NewDisk(overlay.Size(d.Size())), overlay.Base{Size: d.Size()})
		if err != nil {
			t.Fatal(err)
		}
		return o
	},
}

func TestLayersStackInAnyOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	names := slices.Sorted(maps.Keys(layers))
	for range 5 {
		rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		order := slices.Clone(names)
		t.Run(strings.Join(order, "-"), func(t *testing.T) {
			blocktest.ConformWritable(t, func(t *testing.T) block.Device {
				var d block.Device = blocktest.NewDisk(size)
				for _, name := range order {
					d = layers[name](t, d)
				}
				return d
			})
		})
	}
}

// copies says whether a layer writes elsewhere than to the device below.
func copies(layer string) bool { return layer == "cow" || layer == "overlay" }

func TestOnlyCopyOnWriteMakesADeviceWritable(t *testing.T) {
	data := bytes.Repeat([]byte("only read"), 20_000)
	for name, layer := range layers {
		d := layer(t, blocktest.NewMemory(data))
		defer d.Close()
		if writable := block.Has(d)&block.CanWrite != 0; writable != copies(name) {
			t.Errorf("%s over a device that can only be read can be written to: %v", name, writable)
		}
	}
}

// What was forced through all layers is on the disk.
func TestLayersForceAndFlush(t *testing.T) {
	for name, layer := range layers {
		if copies(name) {
			continue // it writes elsewhere
		}
		disk := blocktest.NewDisk(size)
		d := layer(t, disk).(block.Full)
		ctx := context.Background()
		check := func(what string, err error, off int64, want byte) {
			t.Helper()
			disk.Crash(nil)
			got := make([]byte, 512)
			if err := disk.ReadAt(ctx, got, off); err != nil {
				t.Fatal(err)
			}
			if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{want}, 512)) {
				t.Errorf("%s: %s did not outlive a crash, %v", name, what, err)
			}
		}
		check("a forced write", d.WriteAt(ctx, bytes.Repeat([]byte{1}, 1024), 0, true), 0, 1)
		check("forced zeroes", d.WriteZeroes(ctx, 0, 512, true, false, true), 0, 0)
		check("a forced trim", d.Trim(ctx, 512, 512, true), 512, 0)
		if err := d.WriteAt(ctx, bytes.Repeat([]byte{2}, 512), 2048, false); err != nil {
			t.Fatal(err)
		}
		check("what was flushed", d.Flush(ctx), 2048, 2)
		d.Close()
	}
}
