package cow

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/source/file"
)

// imageFile writes baseBytes to a file and opens it.
func imageFile(t *testing.T, dir string) *file.File {
	t.Helper()
	path := filepath.Join(dir, "image")
	if err := os.WriteFile(path, baseBytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := file.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestOverlaysInFilesConform(t *testing.T) {
	dir := t.TempDir()
	t.Run("temporary", func(t *testing.T) {
		blocktest.ConformWritable(t, func(t *testing.T) block.Device {
			scratch, err := file.Temporary(dir, size)
			if err != nil {
				t.Fatal(err)
			}
			return openTemporary(t, imageFile(t, dir), scratch)
		})
	})
	t.Run("kept", func(t *testing.T) {
		blocktest.ConformWritable(t, func(t *testing.T) block.Device {
			path := filepath.Join(dir, "overlay")
			os.Remove(path)
			scratch, err := file.Create(path, KeptSize(size))
			if err != nil {
				t.Fatal(err)
			}
			return openKept(t, imageFile(t, dir), scratch)
		})
	})
}

func TestAnOverlayInAFileIsThereAgain(t *testing.T) {
	dir := t.TempDir()
	want := baseBytes()
	for i := range 3 {
		scratch, err := file.Create(filepath.Join(dir, "overlay"), KeptSize(size))
		if err != nil {
			t.Fatal(err)
		}
		d := openKept(t, imageFile(t, dir), scratch)
		got := make([]byte, size)
		if err := d.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("opened for the %d. time it reads otherwise, %v", i+1, err)
		}
		p := bytes.Repeat([]byte{byte(i + 1)}, 10_000)
		if err := d.WriteAt(t.Context(), p, int64(i*9_999), i == 1); err != nil {
			t.Error(err)
		}
		copy(want[i*9_999:], p)
		if err := d.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		d.Close()
	}
}
