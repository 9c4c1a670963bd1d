// Package durable puts files in place so that a crash at any moment leaves the old one or the new one, whole.
package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace puts what write writes, with the permissions of mode, in the place of the file at path, if there is one. Whoever opens path
// finds what was there before or all of the new, and after a nil error the new, even after a power cut. An error leaves what was there,
// and nothing else.
func Replace(path string, mode fs.FileMode, write func(io.Writer) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp") // of mode 0600
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Chmod(mode.Perm()), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return SyncDir(dir)
}
