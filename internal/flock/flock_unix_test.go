//go:build unix

package flock

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestReadersShareALockAndAWriterHasItAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	a, b, c := open(t, path), open(t, path), open(t, path)
	if err := errors.Join(Lock(a, false), Lock(b, false)); err != nil {
		t.Fatalf("two readers: %v", err)
	}
	var held *HeldError
	if err := Lock(c, true); !errors.As(err, &held) {
		t.Fatalf("a writer beside them: %v, want a HeldError", err)
	}
	if runtime.GOOS == "linux" && held.PID != os.Getpid() {
		t.Errorf("held by process %d, want this one, %d", held.PID, os.Getpid())
	}
	a.Close()
	b.Close()
	if pid := Holder(c); pid != 0 {
		t.Errorf("after they closed it process %d holds it", pid)
	}
	if err := Lock(c, true); err != nil {
		t.Errorf("a writer alone: %v", err)
	}
}
