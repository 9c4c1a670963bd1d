package file

import (
	"errors"
	"fmt"
	"os"

	"github.com/dnbd/dnbd/internal/flock"
)

// lockFile takes f's exclusive lock until f is closed. When it is held it fails at once, and says by whom. Without locks two
// processes could share a file and spoil it.
func lockFile(f *os.File) error {
	err := flock.Lock(f, true)
	var held *flock.HeldError
	switch {
	case errors.As(err, &held):
		return fmt.Errorf("%w by %s, which may write to it: stop it first", ErrInUse, held.By())
	case errors.Is(err, flock.ErrNoLocks):
		return fmt.Errorf("lock it: %w: files that are written to with a lock need a Unix-like system", errors.ErrUnsupported)
	}
	return err
}
