//go:build !unix

package file

import (
	"errors"
	"fmt"
	"os"
)

// lockFile fails: without locks two processes could share a file and spoil it.
func lockFile(*os.File) error {
	return fmt.Errorf("lock it: %w: files that are written to with a lock need a Unix-like system", errors.ErrUnsupported)
}

// removeOpen fails: here an open file keeps its name.
func removeOpen(f *os.File) error {
	return fmt.Errorf("temporary file %s: %w: files without a name need a Unix-like system", f.Name(), errors.ErrUnsupported)
}
