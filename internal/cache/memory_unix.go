//go:build unix

package cache

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// reserve returns n zero bytes that take memory only where they were written, and what gives them back. They lie outside
// the Go heap, so that a full cache does not let the heap's garbage grow as large again.
func reserve(n int64) ([]byte, func() error, error) {
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, fmt.Errorf("map memory: %w", err)
	}
	return b, func() error { return unix.Munmap(b) }, nil
}
