// Package flock locks files, flock(2), and tells who holds a lock.
package flock

import (
	"errors"
	"fmt"
)

// ErrNoLocks: this system has none.
var ErrNoLocks = fmt.Errorf("lock it: %w: that needs a Unix-like system", errors.ErrUnsupported)

// HeldError is the error of a lock that somebody else holds.
type HeldError struct {
	PID int // 0 where the system does not tell
}

// By names the process that holds the lock, as far as it is known.
func (e *HeldError) By() string {
	if e.PID <= 0 {
		return "another process"
	}
	return fmt.Sprintf("process %d", e.PID)
}

// Error implements error.
func (e *HeldError) Error() string { return "locked by " + e.By() }
