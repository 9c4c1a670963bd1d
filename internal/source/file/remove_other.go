//go:build !unix

package file

import (
	"errors"
	"fmt"
	"os"
)

// removeOpen fails: here an open file keeps its name.
func removeOpen(f *os.File) error {
	return fmt.Errorf("temporary file %s: %w: files without a name need a Unix-like system", f.Name(), errors.ErrUnsupported)
}
