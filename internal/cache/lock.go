package cache

import (
	"errors"
	"fmt"
	"os"

	"github.com/dnbd/dnbd/internal/flock"
)

// lock takes f's lock, shared by readers or exclusive, until f is closed. When it is held it fails at once with ErrInUse,
// and says by whom. Without locks two processes could share a file and spoil it.
func lock(f *os.File, exclusive bool) error {
	err := flock.Lock(f, exclusive)
	var held *flock.HeldError
	switch {
	case errors.As(err, &held):
		return fmt.Errorf("%w by %s: stop it, or name another file", ErrInUse, held.By())
	case errors.Is(err, flock.ErrNoLocks):
		return errors.New("cache files need a Unix-like system: leave the file out to cache in memory")
	}
	return err
}
