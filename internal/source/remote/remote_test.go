package remote

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/nbd"
)

// diskOf is a disk that holds data.
func diskOf(t *testing.T, data []byte) *blocktest.Disk {
	t.Helper()
	d := blocktest.NewDisk(int64(len(data)))
	if err := d.WriteAt(t.Context(), data, 0, false); err != nil {
		t.Fatal(err)
	}
	return d
}

// export serves a device until the test ends, and returns its URI.
func export(t *testing.T, d block.Device) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := nbd.NewServer(nbd.ServerConfig{Exports: []nbd.Export{{Name: "x", Device: d}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return "nbd+unix:///x?socket=" + path
}

func open(t *testing.T, uri string, config nbd.DialConfig) block.Device {
	t.Helper()
	config.Timeout = time.Minute
	d, err := Open(t.Context(), uri, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestARemoteDeviceConforms(t *testing.T) {
	data := make([]byte, 1<<20+512)
	for i := range data {
		data[i] = byte(i * 7 >> 8)
	}
	disk := diskOf(t, data)
	uri := export(t, block.ReadOnly(disk))
	blocktest.Conform(t, data, func(t *testing.T) block.Device { return open(t, uri, nbd.DialConfig{}) })
}

func TestARemoteWritableDeviceConforms(t *testing.T) {
	for what, config := range map[string]nbd.DialConfig{
		"with all that there is": {Connections: 4},
		"with simple replies":    {NoStructuredReplies: true},
	} {
		t.Run(what, func(t *testing.T) {
			blocktest.ConformWritable(t, func(t *testing.T) block.Device {
				return open(t, export(t, blocktest.NewDisk(1 << 20)), config)
			})
		})
	}
}

// writes is a device that can be written to and nothing else.
type writes struct {
	block.Device
	block.Writer
}

func TestWhatTheServerLacksTheDeviceLacks(t *testing.T) {
	disk := blocktest.NewDisk(1 << 20)
	for what, c := range map[string]struct {
		served block.Device
		has    block.Caps
		not    block.Caps
	}{
		"everything":      {disk, block.CanWrite | block.CanFlush | block.CanTrim | block.CanZero | block.CanPrefetch | block.CanMap, 0},
		"read-only":       {block.ReadOnly(disk), block.CanPrefetch | block.CanMap, block.CanWrite | block.CanFlush | block.CanTrim | block.CanZero},
		"without a flush": {writes{disk, disk}, block.CanWrite, block.CanFlush},
	} {
		d := open(t, export(t, c.served), nbd.DialConfig{})
		if got := block.Has(d); got&c.has != c.has || got&c.not != 0 {
			t.Errorf("%s: capabilities %06b, want %06b and not %06b", what, got, c.has, c.not)
		}
	}
}

func TestZeroesAreWrittenWhereTheServerCannotZero(t *testing.T) {
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = 0xff
	}
	disk := diskOf(t, data)
	d := open(t, export(t, writes{disk, disk}), nbd.DialConfig{})
	if err := d.(block.Zeroer).WriteZeroes(t.Context(), 1000, 700_000, true, false, false); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1<<20)
	if err := d.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	for i, b := range p {
		if zero := i >= 1000 && i < 701_000; zero != (b == 0) {
			t.Fatalf("byte %d is %#x", i, b)
		}
	}
}
