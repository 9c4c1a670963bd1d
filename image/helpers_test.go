package image

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// randomBytes returns n bytes that are the same for the same seed.
func randomBytes(n int, seed byte) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// writeImage makes a file of data, last modified at a fixed time, and returns its path.
func writeImage(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	overwrite(t, path, data)
	return path
}

// overwrite makes the file at path hold data, with the same modification time whenever it is called.
func overwrite(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o640); err != nil {
		t.Fatal(err)
	}
	touch(t, path, time.Unix(1_700_000_000, 123456789))
}

func touch(t testing.TB, path string, modTime time.Time) {
	t.Helper()
	if err := os.Chtimes(path, modTime, modTime); err != nil {
		t.Fatal(err)
	}
}

// mustCreate hashes the file at path.
func mustCreate(t testing.TB, path string, o CreateOptions) *Image {
	t.Helper()
	m, err := Create(context.Background(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// mustOpen opens the image at path.
func mustOpen(t testing.TB, path string) *Image {
	t.Helper()
	m, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// mustGeometry divides size bytes that can be divided.
func mustGeometry(t testing.TB, size int64, blockSize int) Geometry {
	t.Helper()
	g, err := NewGeometry(size, blockSize)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// skip skips a test that the machine cannot run, unless it is told that it must.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("DNBD_REQUIRE") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}
