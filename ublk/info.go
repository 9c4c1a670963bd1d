package ublk

import (
	"fmt"
	"time"
)

// State is where a disk is in its life.
type State uint16

// The states, UBLK_S_DEV_*.
const (
	// Dead: it was never started or is stopped, and can only be deleted.
	Dead State = 0
	// Live: it can be used.
	Live State = 1
	// Orphaned: its process died, and requests wait for Resume.
	Orphaned State = 2
	// Failing: its process died, and requests fail.
	Failing State = 3
)

// String implements fmt.Stringer.
func (s State) String() string {
	switch s {
	case Dead:
		return "dead"
	case Live:
		return "live"
	case Orphaned:
		return "orphaned"
	case Failing:
		return "failing"
	}
	return fmt.Sprintf("state %d", uint16(s))
}

// Info is what the kernel knows of a disk, whoever made it.
type Info struct {
	ID          int
	State       State
	PID         int // of its process; -1 if it has none
	Size        int64
	BlockSize   int
	ReadOnly    bool
	Recoverable bool // by Resume
	Tag         uint64
	Queues      int
	Depth       int
	MaxIO       int
}

// Path is where the disk is, while it is not dead.
func (i *Info) Path() string { return blockPath(i.ID) }

func blockPath(id int) string { return fmt.Sprintf("/dev/ublkb%d", id) }

func charPath(id int) string { return fmt.Sprintf("/dev/ublkc%d", id) }

// Stats are what this process has done for a disk, and is doing.
type Stats struct {
	// Requests are those that were answered, and Errors those of them that failed.
	Requests, Errors uint64
	// Outstanding are the requests under way, and Oldest is the age of the oldest one.
	Outstanding int
	Oldest      time.Duration
}
