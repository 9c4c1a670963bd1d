//go:build !unix

package flock

import "os"

// Lock fails: there are no locks here.
func Lock(*os.File, bool) error { return ErrNoLocks }

// Wait fails: there are no locks here.
func Wait(*os.File) error { return ErrNoLocks }

// Holder is 0: nobody can have locked f.
func Holder(*os.File) int { return 0 }
