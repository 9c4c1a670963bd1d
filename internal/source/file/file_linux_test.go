package file

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
)

// needRoot skips the test for other users, or fails where DNBD_REQUIRE=1 says that nothing may be missing.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("DNBD_REQUIRE") == "1" {
		t.Fatal("only root may do this, and DNBD_REQUIRE=1")
	}
	t.Skip("only root may do this")
}

// loop returns the path of a block device over the file at path, until the test ends.
func loop(t *testing.T, path string, options ...string) string {
	t.Helper()
	needRoot(t)
	out, err := exec.Command("losetup", append(options, "--find", "--show", path)...).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", dev, err, out)
		}
	})
	return dev
}

// tmpfs returns a directory on a file system in memory with space for so many bytes, until the test ends.
func tmpfs(t *testing.T, space int) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", space)); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// space is how many bytes of disk the file at path takes.
func space(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestBlockDeviceConforms(t *testing.T) {
	for _, sector := range []string{"512", "4096"} {
		path, _ := image(t, t.TempDir())
		if err := os.Truncate(path, 3<<20); err != nil {
			t.Fatal(err)
		}
		dev := loop(t, path, "--sector-size", sector)
		contents := make([]byte, 3<<20)
		blocktest.ConformWritable(t, func(t *testing.T) block.Device {
			// The same device each time, so it is made the same.
			d := writable(t, dev)
			if err := d.WriteAt(t.Context(), contents, 0, false); err != nil {
				t.Fatal(err)
			}
			return d
		})
	}
}

func TestBlockDeviceGivesSpaceBack(t *testing.T) {
	path, _ := image(t, t.TempDir())
	if err := os.Truncate(path, 3<<20); err != nil {
		t.Fatal(err)
	}
	d := writable(t, loop(t, path))
	for name, free := range map[string]func() error{
		"Trim":        func() error { return d.Trim(t.Context(), 1, 3<<20-2, true) },
		"WriteZeroes": func() error { return d.WriteZeroes(t.Context(), 1, 3<<20-2, true, true, true) },
	} {
		ones := make([]byte, 3<<20)
		for i := range ones {
			ones[i] = 1
		}
		if err := d.WriteAt(t.Context(), ones, 0, true); err != nil {
			t.Fatal(err)
		}
		if got := space(t, path); got < 3<<20 {
			t.Fatalf("a full file takes %d bytes", got)
		}
		if err := free(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := space(t, path); got > 64<<10 {
			t.Errorf("%s left %d bytes", name, got)
		}
	}
	if err := d.WriteZeroes(t.Context(), 0, 1<<20, false, true, false); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("fast zeroes that keep their space: %v, want errors.ErrUnsupported", err)
	}
}

// tmpfs has holes, but no FALLOC_FL_ZERO_RANGE.
func TestTmpfsConforms(t *testing.T) {
	dir := tmpfs(t, 64<<20)
	blocktest.ConformWritable(t, func(t *testing.T) block.Device {
		path, _ := image(t, dir)
		return writable(t, path)
	})
}

func TestSpaceIsGivenBackOrKept(t *testing.T) {
	for name, dir := range map[string]string{"disk": t.TempDir(), "tmpfs": tmpfs(t, 64<<20)} {
		path, _ := image(t, dir)
		d := writable(t, path)
		if err := d.WriteZeroes(t.Context(), 0, imageSize, false, true, false); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := space(t, path); got < imageSize {
			t.Errorf("%s: zeroes that keep their space take %d bytes of %d", name, got, imageSize)
		}
		if err := d.Trim(t.Context(), 0, 1<<20, false); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := d.WriteZeroes(t.Context(), 1<<20, imageSize-1<<20, true, true, false); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := space(t, path); got > 64<<10 {
			t.Errorf("%s: %d bytes are left of what was given back", name, got)
		}
		var holes int64
		err := d.Extents(t.Context(), 0, imageSize, func(n int64, hole, _ bool) bool {
			if hole {
				holes += n
			}
			return true
		})
		if err != nil || holes < imageSize-64<<10 {
			t.Errorf("%s: %d bytes of holes of %d, %v", name, holes, imageSize, err)
		}
	}
}

func TestAFullDiskIsToldToTheWriterAlone(t *testing.T) {
	dir := tmpfs(t, 256<<10)
	d, err := Create(dir+"/scratch", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, fua := range []bool{false, true} {
		if err := d.WriteAt(t.Context(), make([]byte, 512<<10), 0, fua); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("WriteAt, fua=%v: %v, want ENOSPC", fua, err)
		}
	}
	if err := d.WriteZeroes(t.Context(), 0, 512<<10, false, false, false); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("WriteZeroes that keep their space: %v, want ENOSPC", err)
	}
	if err := d.Trim(t.Context(), 0, 1<<20, false); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteAt(t.Context(), make([]byte, 64<<10), 0, false); err != nil {
		t.Errorf("when there is space again: %v", err)
	}
}

// The writes fit the page cache; that they do not fit the disk is known when they are flushed.
func TestALostWriteBackIsNotForgotten(t *testing.T) {
	dir := tmpfs(t, 256<<10)
	path := dir + "/image"
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	d := writable(t, loop(t, path))
	if err := d.WriteAt(t.Context(), make([]byte, 1<<20), 0, false); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := d.Flush(t.Context()); err == nil {
			t.Errorf("flush %d of what the disk has no space for: no error", i+1)
		}
	}
	d.Close()
}

func TestReadOnlyIsSaidWhenOpened(t *testing.T) {
	path, _ := image(t, t.TempDir())
	if err := os.Truncate(path, 3<<20); err != nil {
		t.Fatal(err)
	}
	_, err := OpenWritable(loop(t, path, "--read-only"), false)
	if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "export it read-only") {
		t.Errorf("a block device that can only be read: %v", err)
	}

	dir := tmpfs(t, 8<<20)
	path, _ = image(t, dir)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Mount("", dir, "", unix.MS_REMOUNT, "") })
	_, err = OpenWritable(path, false)
	if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "export it read-only") {
		t.Errorf("a file on a file system that can only be read: %v", err)
	}
}

func TestTheLocksHolderIsNamed(t *testing.T) {
	path, _ := image(t, t.TempDir())
	d, err := OpenWritable(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, err = OpenWritable(path, true)
	if want := fmt.Sprintf("by process %d", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}
