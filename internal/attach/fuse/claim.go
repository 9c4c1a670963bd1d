//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/attach/claim"
	"golang.org/x/sys/unix"
)

// place is a path that is claimed, where the disk is mounted in the claim's directory.
type place struct{ *claim.Claim }

// newPlace claims device in a directory below parent, and removes what a dead process has left of it.
func newPlace(parent, device string) (*place, error) {
	c, err := claim.Take(parent, driverName, device)
	if err != nil {
		return nil, err
	}
	p := &place{c}
	if err := p.clean(); err != nil {
		// The directory stays: what is in the way is still to be cleaned.
		return nil, errors.Join(fmt.Errorf("remove what a dead process left: %w", err), p.Leave())
	}
	return p, nil
}

// mountPoint is where the disk is mounted.
func (p *place) mountPoint() string { return p.Path("mnt") }

// diskPath is the path of the file with the device's bytes.
func (p *place) diskPath() string { return filepath.Join(p.mountPoint(), diskName) }

// clean removes what a dead process has left, and fails if that is in use. Afterwards the device's path is free, or
// somebody else's.
func (p *place) clean() error {
	for _, l := range loopsOf(p.diskPath()) {
		if err := p.free(l); err != nil {
			return err
		}
	}
	if err := p.Unlink(); err != nil {
		return err
	}
	// Its server is dead, so nobody can be waiting for it, and nothing is lost to those who still have it open.
	for {
		err := unix.Unmount(p.mountPoint(), unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // nothing is mounted
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", p.mountPoint(), err)
		}
	}
}

// free removes the link and releases l, unless it has holders, of which the error tells.
func (p *place) free(l loop) error {
	holders, err := attach.Holders(p.Device(), string(l))
	if err != nil {
		return err
	}
	if len(holders) > 0 {
		return attach.Busy(p.Device(), holders)
	}
	// The link goes first: once l is released somebody else may get it.
	if err := p.Unlink(); err != nil {
		return err
	}
	err = l.release()
	if err == nil {
		// A process that opened the device just now, such as udev's, or one that dies while it waits for a read, keeps the
		// device until it has closed it.
		err = untilIdle(3*patience, func() error {
			if l.file() == p.diskPath() {
				return unix.EBUSY
			}
			return nil
		})
	}
	if errors.Is(err, unix.EBUSY) {
		return errors.Join(attach.Busy(p.Device(), []string{"somebody who cannot be seen from here"}), p.Link(string(l)))
	}
	return err
}

// drop gives the claim up and removes its directory, in which nothing may be mounted.
func (p *place) drop() error {
	err := os.Remove(p.mountPoint())
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, p.Drop())
}
