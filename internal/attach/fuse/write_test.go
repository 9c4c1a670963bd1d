//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"golang.org/x/sys/unix"
)

// opened opens a device to be written to, past the page cache if direct.
func opened(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// span makes one of the ioctls that take a range of a device.
func span(t *testing.T, f *os.File, request uintptr, off, n uint64) {
	t.Helper()
	arg := [2]uint64{off, n}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		t.Fatal(errno)
	}
}

func TestWhatIsWrittenIsOnTheDeviceWhenItIsSynced(t *testing.T) {
	need(t)
	disk := blocktest.NewDisk(32 << 20)
	a := newSpot(t).attached(t, disk)
	f := opened(t, a.Path())
	want := random(32 << 20)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			share := len(want) / 8
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			for at := i * share; at < (i+1)*share; {
				n := min(rng.IntN(300_000)+1, (i+1)*share-at)
				if _, err := f.WriteAt(want[at:at+n], int64(at)); err != nil {
					t.Error(err)
				}
				at += n
			}
		})
	}
	wg.Wait()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	disk.Crash(nil) // loses what was not flushed
	got := make([]byte, len(want))
	if err := disk.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the device holds something else, %v", err)
	}

	// Discards give space back. The zeroes of this call are to keep theirs.
	span(t, f, unix.BLKDISCARD, 1<<20, 4<<20)
	span(t, f, unix.BLKZEROOUT, 8<<20, 4<<20)
	clear(want[1<<20 : 5<<20])
	clear(want[8<<20 : 12<<20])
	if got := disk.Allocated(); got != 28<<20 {
		t.Errorf("the device takes %d bytes", got)
	}
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("it reads otherwise, %v", err)
	}
	f.Close()
}

func TestADeviceThatCanOnlyBeReadStaysSo(t *testing.T) {
	need(t)
	a := newSpot(t).attached(t, blocktest.NewMemory(random(1<<20)))
	f, err := os.OpenFile(a.Path(), os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(make([]byte, 4096), 0)
		f.Close()
	}
	if !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EPERM) {
		t.Errorf("a write: %v", err)
	}
}

func TestTheEndOfADeviceWithoutWholeSectorsTakesZeroesOnly(t *testing.T) {
	need(t)
	disk := blocktest.NewDisk(4096 + 100)
	a := newSpot(t).attached(t, disk)
	f := opened(t, a.Path())
	if _, err := f.WriteAt(append(random(100), make([]byte, 3996)...), 4096); err != nil {
		t.Error(err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	if _, err := f.WriteAt(random(4096), 4096); err == nil {
		err = f.Sync()
		if err == nil {
			t.Error("bytes that the device has no room for were taken")
		}
	}
	f.Close()
}

func TestErrorsOfTheDeviceReachTheWriter(t *testing.T) {
	need(t)
	dev := blocktest.Faulty(blocktest.NewDisk(4<<20), func(r block.Request) error {
		if r.Op == block.Write && r.Off+r.Len > 3<<20 {
			return syscall.ENOSPC
		}
		return nil
	})
	a := newSpot(t).attached(t, dev)
	f := opened(t, a.Path())
	if _, err := f.WriteAt(random(4096), 3<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EIO) {
		t.Errorf("Sync: %v, want that there is no space", err)
	}
	if _, err := f.WriteAt(random(4096), 0); err != nil || f.Sync() != nil {
		t.Errorf("another place: %v", err)
	}
	f.Close()
}

// A file system that is made and used on the device is there, and whole, when the device is attached again.
func TestAFileSystemIsWrittenTo(t *testing.T) {
	need(t, "mkfs.ext4", "e2fsck", "diff")
	disk := blocktest.NewDisk(64 << 20)
	source := t.TempDir()
	tree(t, source)
	p := newSpot(t)
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	a, err := p.attach(disk)
	if err != nil {
		t.Fatal(err)
	}
	run("mkfs.ext4", "-q", a.Path())
	mount := func(path string) string {
		dir := t.TempDir()
		if err := unix.Mount(path, dir, "ext4", 0, ""); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	dir := mount(a.Path())
	run("cp", "-a", source+"/.", dir)
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}

	a = p.attached(t, disk)
	run("e2fsck", "-f", "-n", a.Path())
	dir = mount(a.Path())
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	run("diff", "-r", "-x", "lost+found", source, dir)
	if _, err := os.Stat(filepath.Join(dir, "d3", "f59")); err != nil {
		t.Error(err)
	}
}
