package overlay

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/source/file"
)

// A file system that is full fails the writes that need space, and nothing else; what gives space back lets others in.
func TestAFullFileSystemHarmsNothing(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatalf("mount a tmpfs: %v, and DNBD_REQUIRE=1", err)
		}
		t.Skipf("mount a tmpfs: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	const size = 8 << 20
	open := func() *Device {
		scratch, err := file.Create(filepath.Join(dir, "overlay"), Size(size))
		must(t, err)
		d, err := Open(t.Context(), blocktest.NewMemory(bytes.Repeat([]byte{0xee}, size)), scratch, of(size))
		must(t, err)
		return d
	}
	d := open()
	ctx, want := t.Context(), bytes.Repeat([]byte{0xee}, size)
	fill := func() (written int) {
		t.Helper()
		p := bytes.Repeat([]byte{1}, 64<<10)
		for off := 0; off < size; off += len(p) {
			err := d.WriteAt(ctx, p, int64(off), false)
			if errors.Is(err, syscall.ENOSPC) {
				return off
			}
			must(t, err)
			copy(want[off:], p)
		}
		t.Fatal("the file system was never full")
		return 0
	}
	full := fill()
	must(t, d.Flush(ctx))
	holds(t, d, want)
	// What is there can be written to, and forced.
	must(t, d.WriteAt(ctx, []byte("again"), 1000, true))
	copy(want[1000:], "again")
	// Each block that is given back is room for another.
	must(t, d.Trim(ctx, 0, 256<<10, false))
	clear(want[:256<<10])
	must(t, d.WriteAt(ctx, bytes.Repeat([]byte{2}, 256<<10), 7<<20, true))
	copy(want[7<<20:], bytes.Repeat([]byte{2}, 256<<10))
	holds(t, d, want)
	must(t, d.Close())
	d = open()
	holds(t, d, want)
	if held := d.Held(); held.Data < int64(full) || held.Zero != 256<<10 {
		t.Errorf("%+v, it was full after %d", held, full)
	}
	must(t, d.Close())
}
