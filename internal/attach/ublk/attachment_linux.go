package ublk

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/attach/claim"
	"github.com/dnbd/dnbd/ublk"
)

// attachment is a device that is attached.
type attachment struct {
	claim *claim.Claim
	disk  *ublk.Disk

	mu    sync.Mutex // held by Close
	ended bool
}

// Path implements attach.Attachment.
func (a *attachment) Path() string { return a.claim.Device() }

// Driver implements attach.Attachment.
func (a *attachment) Driver() string { return driverName }

// Done implements attach.Attachment.
func (a *attachment) Done() <-chan struct{} { return a.disk.Done() }

// Holders implements attach.Attachment.
func (a *attachment) Holders() ([]string, error) { return holders(a.claim.Device(), a.disk.Path()) }

// holders names who uses the block device at path, to which link leads, or a partition of it.
func holders(link, path string) ([]string, error) {
	partitions, err := filepath.Glob(path + "p*")
	if err != nil {
		return nil, err
	}
	return attach.Holders(append([]string{link, path}, partitions...)...)
}

// Close implements attach.Attachment.
func (a *attachment) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return nil
	}
	if err := deleteUnused(a.claim, a.disk.Path(), a.disk.Close); err != nil {
		return err
	}
	a.ended = true
	return errors.Join(a.claim.Unlink(), drop(a.claim))
}

// deleteUnused calls del to delete the block device at path, unless it has holders, of which the error tells.
func deleteUnused(c *claim.Claim, path string, del func() error) error {
	names, err := holders(c.Device(), path)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return attach.Busy(c.Device(), names)
	}
	// While it is ours alone nobody can mount it or build on it.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return attach.Busy(c.Device(), []string{"somebody who cannot be seen from here"})
	case err == nil:
		defer unix.Close(fd)
	case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENXIO): // somebody has stopped it
		return fmt.Errorf("claim %s: %w", path, err)
	}
	return del()
}
