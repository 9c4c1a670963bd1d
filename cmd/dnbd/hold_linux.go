package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// holdMemory prepares the process for a device that carries swap: its pages stay in memory, it is not what is killed when
// memory is short, and what it allocates while it writes does not wait for writing.
func holdMemory() error {
	if err := unix.Mlockall(unix.MCL_CURRENT); err != nil {
		return fmt.Errorf("lock memory: %w", err)
	}
	// Go reserves much more than it uses; only what is used is to be in memory.
	if err := unix.Mlockall(unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("lock memory: %w", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return fmt.Errorf("keep the process alive when memory is short: %w", err)
	}
	// Kernels before 5.6 do not know it.
	if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("tell the kernel that the process serves a device: %w", err)
	}
	return nil
}
