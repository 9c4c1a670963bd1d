package cow

import (
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

func TestAnOverlayInAFileConforms(t *testing.T) {
	dir := t.TempDir()
	blocktest.ConformWritable(t, func(t *testing.T) block.Device {
		scratch, err := file.Temporary(dir, size)
		if err != nil {
			t.Fatal(err)
		}
		return openTemporary(t, imageFile(t, dir), scratch)
	})
}
