package image

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func TestBlocksAreWhereTheirNumbersSay(t *testing.T) {
	data := make([]byte, 300*MinBlockSize+100) // two levels of pages, and a short last block
	rand.NewChaCha8([32]byte{2}).Read(data)
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := Create(t.Context(), path, CreateOptions{BlockSize: MinBlockSize})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	g := m.Geometry()
	want := make([]byte, int(g.Total())*MinBlockSize)
	for b := range g.Total() {
		if _, err := m.ReadBlock(b, want[int(b)*MinBlockSize:]); err != nil {
			t.Fatal(err)
		}
	}
	d := m.Blocks()
	if d.Size() != int64(len(want)) {
		t.Fatalf("%d bytes, want %d", d.Size(), len(want))
	}
	for _, r := range []struct{ from, to int }{
		{0, len(want)},
		{5, 17},
		{MinBlockSize - 1, 3*MinBlockSize + 1},
		{300*MinBlockSize + 50, 302 * MinBlockSize},
		{300*MinBlockSize + 200, 301*MinBlockSize - 1}, // nothing but zeros
		{len(want) - 10, len(want)},
	} {
		got := bytes.Repeat([]byte{0xee}, r.to-r.from)
		if err := d.ReadAt(t.Context(), got, int64(r.from)); err != nil || !bytes.Equal(got, want[r.from:r.to]) {
			t.Errorf("read [%d, %d): %v, or other bytes", r.from, r.to, err)
		}
	}
	if err := d.ReadAt(t.Context(), make([]byte, 2), d.Size()-1); err == nil {
		t.Error("a read beyond the end succeeded")
	}
}
