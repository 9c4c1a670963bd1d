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
	claim  *claim.Claim
	disk   *ublk.Disk
	config ublk.Config

	mu    sync.Mutex // held by Close and Force
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
	return a.end(func() error { return unused(a.claim, a.disk.Path(), a.disk.Close) })
}

// Force implements attach.Forcer.
func (a *attachment) Force() error { return a.end(a.disk.Abort) }

// end ends the attachment once, with del, which deletes the block device.
func (a *attachment) end(del func() error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return nil
	}
	if err := del(); err != nil {
		return err
	}
	a.ended = true
	return errors.Join(a.claim.Unlink(), drop(a.claim))
}

// Inspect implements attach.Inspector.
func (a *attachment) Inspect() attach.Details {
	s := a.disk.Stats()
	return attach.Details{
		Kernel: a.disk.Path(), Features: features(a.config),
		Requests: s.Requests, Errors: s.Errors, Outstanding: s.Outstanding, Oldest: s.Oldest,
	}
}

// features are the words for what the users of a device can do beside reading it, as driver nbd has them.
func features(c ublk.Config) (words []string) {
	if _, ok := c.Device.(ublk.Writer); !ok {
		return []string{"read-only"}
	}
	if _, ok := c.Device.(ublk.Flusher); ok {
		words = append(words, "flush", "fua")
	}
	if _, ok := c.Device.(ublk.Trimmer); ok {
		words = append(words, "trim")
	}
	if _, ok := c.Device.(ublk.Zeroer); ok {
		words = append(words, "write-zeroes")
	}
	return words
}

// unused calls del, which is to delete the block device at path, unless it has holders, of which the error tells.
func unused(c *claim.Claim, path string, del func() error) error {
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
