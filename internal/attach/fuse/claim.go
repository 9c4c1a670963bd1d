//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dnbd/dnbd/internal/attach"
	"golang.org/x/sys/unix"
)

// errClaimed is wrapped by the error for a device that another process has attached.
var errClaimed = errors.New("is attached")

// claim is the right to attach one device: a directory with a lock that ends with the process.
//
//	DIR/lock  locked; holds the number of the process
//	DIR/mnt   where the disk is mounted
//	DIR/loop  the path of the loop device, written before the symbolic link to it is made
type claim struct {
	device string
	dir    string
	lock   *os.File
}

// newClaim claims device, for which it makes a directory below parent, and removes what a dead process has left of it.
func newClaim(parent, device string) (*claim, error) {
	c := &claim{device: device, dir: claimDir(parent, device)}
	if err := c.take(); err != nil {
		return nil, err
	}
	if err := c.clean(); err != nil {
		// The directory stays: what is in the way is still to be cleaned.
		return nil, errors.Join(err, c.lock.Close())
	}
	return c, nil
}

// claimDir is the directory below parent of the claim to device.
func claimDir(parent, device string) string {
	return filepath.Join(parent, url.PathEscape(strings.TrimPrefix(device, "/")))
}

// take locks the claim.
func (c *claim) take() error {
	for {
		if err := os.MkdirAll(filepath.Dir(c.dir), 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		path := filepath.Join(c.dir, "lock")
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			continue // the directory was removed under our feet
		}
		if err != nil {
			return err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			owner, _ := os.ReadFile(path)
			pid, _ := strconv.Atoi(string(owner))
			return errors.Join(fmt.Errorf("%s %w by %s; detach it first or choose another", c.device, errClaimed, attach.Process(pid)), f.Close())
		}
		ours, err := f.Stat()
		if err != nil {
			return errors.Join(err, f.Close())
		}
		if there, err := os.Stat(path); err != nil || !os.SameFile(ours, there) {
			f.Close() // whoever had it before has removed it
			continue
		}
		if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return errors.Join(err, f.Close())
		}
		c.lock = f
		return nil
	}
}

// mountPoint is where the disk is mounted.
func (c *claim) mountPoint() string { return filepath.Join(c.dir, "mnt") }

// diskPath is the path of the file with the device's bytes.
func (c *claim) diskPath() string { return filepath.Join(c.mountPoint(), diskName) }

// clean removes what a dead process has left, and fails if that is in use. Afterwards the device's path is free, or
// somebody else's.
func (c *claim) clean() error {
	for _, l := range loopsOf(c.diskPath()) {
		if err := c.free(l); err != nil {
			return fmt.Errorf("remove what a dead process left: %w", err)
		}
	}
	if err := c.unlink(); err != nil {
		return fmt.Errorf("remove what a dead process left: %w", err)
	}
	// Its server is dead, so nobody can be waiting for it, and nothing is lost to those who still have it open.
	for {
		err := unix.Unmount(c.mountPoint(), unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // nothing is mounted
		}
		if err != nil {
			return fmt.Errorf("remove what a dead process left: unmount %s: %w", c.mountPoint(), err)
		}
	}
}

// free removes the link and releases l, unless it has holders, of which the error tells.
func (c *claim) free(l loop) error {
	holders, err := attach.Holders(c.device, string(l))
	if err != nil {
		return err
	}
	if len(holders) > 0 {
		return attach.Busy(c.device, holders)
	}
	// The link goes first: once l is released somebody else may get it.
	if err := c.unlink(); err != nil {
		return err
	}
	err = l.release()
	if err == nil {
		// A process that opened the device just now, such as udev's, or one that dies while it waits for a read, keeps the
		// device until it has closed it.
		err = untilIdle(3*patience, func() error {
			if l.file() == c.diskPath() {
				return unix.EBUSY
			}
			return nil
		})
	}
	if errors.Is(err, unix.EBUSY) {
		return errors.Join(attach.Busy(c.device, []string{"somebody who cannot be seen from here"}), c.link(l))
	}
	return err
}

// link makes the device's path a symbolic link to l. It fails if the path exists.
func (c *claim) link(l loop) error {
	if err := os.WriteFile(filepath.Join(c.dir, "loop"), []byte(l), 0o600); err != nil {
		return err
	}
	if err := os.Symlink(string(l), c.device); errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists and was not made by dnbd; remove it or choose another: %w", c.device, os.ErrExist)
	} else if err != nil {
		return err
	}
	return nil
}

// unlink removes the link, if it is there and is the one that link made.
func (c *claim) unlink() error {
	path := filepath.Join(c.dir, "loop")
	target, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if there, err := os.Readlink(c.device); err == nil && there == string(target) {
		if err := os.Remove(c.device); err != nil {
			return err
		}
	}
	return os.Remove(path)
}

// drop gives the claim up and removes its directory, in which nothing may be mounted.
func (c *claim) drop() error {
	// Never RemoveAll: if something were still mounted it would be asked.
	var errs []error
	for _, path := range []string{c.mountPoint(), filepath.Join(c.dir, "lock"), c.dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, c.lock.Close())...)
}
