//go:build linux

package e2e

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const mib = 1 << 20

// media are images that several tests serve and none changes, by name: functions that make them when first called.
var media sync.Map

// medium returns the file of an image, with its sidecar. If no test has asked for it before it is made by fill.
func medium(t *testing.T, name string, fill func(path string) error) string {
	t.Helper()
	path := filepath.Join(shared.dir, name)
	once, _ := media.LoadOrStore(name, sync.OnceValue(func() error {
		if err := fill(path); err != nil {
			return err
		}
		if out, err := exec.Command(shared.binary, "image", "create", path).CombinedOutput(); err != nil {
			return fmt.Errorf("dnbd image create %s: %w: %s", path, err, out)
		}
		return nil
	}))
	if err := once.(func() error)(); err != nil {
		t.Fatal(err)
	}
	return path
}

// film returns an image of size random bytes.
func film(t *testing.T, size int) string {
	t.Helper()
	return medium(t, fmt.Sprintf("film%d", size/1024), func(path string) error {
		return os.WriteFile(path, random(uint64(size), size), 0o644)
	})
}

// tree returns an image with a file system of real files, and the directory that it was made from.
func tree(t *testing.T) (path, source string) {
	t.Helper()
	need(t, "mkfs.erofs")
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source = filepath.Join(strings.TrimSpace(string(root)), "src", "runtime")
	return medium(t, "tree", func(path string) error {
		if out, err := exec.Command("mkfs.erofs", path, source).CombinedOutput(); err != nil {
			return fmt.Errorf("mkfs.erofs: %w: %s", err, out)
		}
		return nil
	}), source
}

// random returns n bytes that depend on seed alone.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	rand.NewChaCha8(key).Read(b)
	return b
}

// copyFile copies a file to where a test may change it.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// size is a file's.
func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// files are the regular files below a directory.
func files(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			relative, _ := filepath.Rel(dir, path)
			paths = append(paths, relative)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}
