//go:build !unix

package cache

import (
	"errors"
	"os"
)

// lock fails: without a lock two processes could share a file and spoil it.
func lock(*os.File, bool) error {
	return errors.New("cache files need a Unix-like system: leave the file out to cache in memory")
}

// holder is 0: nobody can have locked f.
func holder(*os.File) int { return 0 }
