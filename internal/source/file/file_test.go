package file

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
)

// imageSize is no multiple of anything.
const imageSize = 3<<20 + 777

// image writes a file with holes and returns its path and bytes.
func image(t *testing.T, dir string) (path string, data []byte) {
	t.Helper()
	data = make([]byte, imageSize)
	rng := rand.NewChaCha8([32]byte{1})
	for _, at := range []int{0, 1 << 20, imageSize - 10_000} {
		rng.Read(data[at : at+10_000])
	}
	f, err := os.CreateTemp(dir, "image")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Cleanup(func() { os.Remove(f.Name()) })
	if err := f.Truncate(imageSize); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 1 << 20, imageSize - 10_000} {
		if _, err := f.WriteAt(data[at:at+10_000], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	return f.Name(), data
}

// writable opens path to be written, until the test ends.
func writable(t *testing.T, path string) *Writable {
	t.Helper()
	d, err := OpenWritable(path, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestFileConforms(t *testing.T) {
	path, data := image(t, t.TempDir())
	blocktest.Conform(t, data, func(t *testing.T) block.Device {
		d, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

func TestWritableConforms(t *testing.T) {
	dir := t.TempDir()
	blocktest.ConformWritable(t, func(t *testing.T) block.Device {
		path, _ := image(t, dir)
		return writable(t, path)
	})
}

// A file system that can do nothing but read, write and sync.
func TestWritableConformsWithoutAnyHelp(t *testing.T) {
	dir := t.TempDir()
	blocktest.ConformWritable(t, func(t *testing.T) block.Device {
		path, _ := image(t, dir)
		d := writable(t, path)
		d.can.noForce.Store(true)
		d.can.noPunch.Store(true)
		d.can.noZero.Store(true)
		return d
	})
}

func TestAFileThatIsOnlyReadCannotBeWritten(t *testing.T) {
	path, _ := image(t, t.TempDir())
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got := block.Has(d); got != block.CanPrefetch|block.CanMap {
		t.Errorf("it has the capabilities %b", got)
	}
}

func TestWritesNeverMakeAFileLonger(t *testing.T) {
	path, _ := image(t, t.TempDir())
	d := writable(t, path)
	ctx := t.Context()
	for name, err := range map[string]error{
		"WriteAt":     d.WriteAt(ctx, make([]byte, 2), imageSize-1, false),
		"WriteZeroes": d.WriteZeroes(ctx, imageSize-1, 2, false, false, false),
		"Trim":        d.Trim(ctx, imageSize-1, 2, false),
	} {
		if !errors.Is(err, block.ErrRange) {
			t.Errorf("%s: %v, want ErrRange", name, err)
		}
	}
	if err := d.WriteZeroes(ctx, 0, imageSize, false, false, false); err != nil {
		t.Error(err)
	}
	if got := lengthOf(t, path); got != imageSize {
		t.Errorf("the file is %d bytes long, want %d", got, imageSize)
	}
}

func TestAFileThatShrinksFailsForWhatIsGone(t *testing.T) {
	path, data := image(t, t.TempDir())
	d := writable(t, path)
	const left = 2 << 20
	if err := os.Truncate(path, left); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, err := range map[string]error{
		"ReadAt":      d.ReadAt(ctx, make([]byte, 10), left-5),
		"WriteAt":     d.WriteAt(ctx, make([]byte, 10), left-5, false),
		"WriteZeroes": d.WriteZeroes(ctx, left-5, 10, true, false, false),
		"Trim":        d.Trim(ctx, left-5, 10, false),
		"Extents":     d.Extents(ctx, left-5, 10, func(int64, bool, bool) bool { return true }),
	} {
		if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "2097152 now") {
			t.Errorf("%s: %v, want EIO and the length now", name, err)
		}
	}
	if got := lengthOf(t, path); got != left {
		t.Errorf("the file is %d bytes long, want %d", got, left)
	}
	got := make([]byte, 10_000)
	if err := d.ReadAt(ctx, got, 1<<20); err != nil || !bytes.Equal(got, data[1<<20:][:10_000]) {
		t.Errorf("what is left: %v", err)
	}
	if err := d.WriteAt(ctx, got, 0, true); err != nil {
		t.Errorf("write to what is left: %v", err)
	}
}

func TestAFileThatGrowsKeepsItsSize(t *testing.T) {
	path, _ := image(t, t.TempDir())
	d := writable(t, path)
	if err := os.Truncate(path, 2*imageSize); err != nil {
		t.Fatal(err)
	}
	if err := d.ReadAt(t.Context(), make([]byte, 2), imageSize-1); !errors.Is(err, block.ErrRange) {
		t.Errorf("read beyond the end: %v, want ErrRange", err)
	}
	total := int64(0)
	err := d.Extents(t.Context(), 0, imageSize, func(n int64, _, _ bool) bool { total += n; return true })
	if err != nil || total != imageSize {
		t.Errorf("extents of %d bytes, %v", total, err)
	}
}

func TestAFlushThatFailedIsNotForgotten(t *testing.T) {
	path, _ := image(t, t.TempDir())
	d := writable(t, path)
	err := error(syscall.EDQUOT)
	d.broken.Store(&err)
	if err := d.Flush(t.Context()); !errors.Is(err, syscall.EDQUOT) {
		t.Errorf("Flush: %v, want the first one's error", err)
	}
	if err := d.WriteZeroes(t.Context(), 0, 10, false, false, true); !errors.Is(err, syscall.EDQUOT) {
		t.Errorf("WriteZeroes, forced: %v, want the first flush's error", err)
	}
}

func TestWhatCannotBeOpenedSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ path, want string }{
		{dir, "it is a directory"},
		{filepath.Join(dir, "none"), "check the path"},
		{os.DevNull, "neither a file nor a block device"},
	} {
		if _, err := Open(c.path); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("Open: %v, want %q", err, c.want)
		}
		if _, err := OpenWritable(c.path, false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("OpenWritable: %v, want %q", err, c.want)
		}
	}
}

func TestCreateMakesAFileOnceAndKeepsIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new")
	d, err := Create(path, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WriteAt(t.Context(), []byte("kept"), 9_000, false); err != nil || d.Size() != 10_000 {
		t.Fatalf("size %d, %v", d.Size(), err)
	}
	d.Close()
	if _, err := Create(path, 10_001); err == nil || !strings.Contains(err.Error(), "10000 bytes long, not 10001") {
		t.Errorf("another size: %v", err)
	}
	if d, err = Create(path, 10_000); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got := make([]byte, 4)
	if err := d.ReadAt(t.Context(), got, 9_000); err != nil || string(got) != "kept" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestTemporaryHasNoName(t *testing.T) {
	dir := t.TempDir()
	blocktest.ConformWritable(t, func(t *testing.T) block.Device {
		d, err := Temporary(dir, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%v in its directory, %v", left, err)
		}
		return d
	})
}

func TestOnlyOneMayHoldTheLock(t *testing.T) {
	path, _ := image(t, t.TempDir())
	d, err := OpenWritable(path, true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = OpenWritable(path, true)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("a second one: %v, want ErrInUse", err)
	}
	if free, err := OpenWritable(path, false); err != nil {
		t.Errorf("without a lock: %v", err)
	} else {
		free.Close()
	}
	d.Close()
	if d, err = OpenWritable(path, true); err != nil {
		t.Fatalf("when it is free again: %v", err)
	}
	d.Close()
}

// lengthOf is the length of the file at path.
func lengthOf(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}
