//go:build linux

package claim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/flock"
)

// ErrTaken is wrapped by the error for a path that is attached, or where another driver's dead process has left something.
var ErrTaken = errors.New("is attached")

// maxDevices bounds the search for a free /dev/dnbdN.
const maxDevices = 1024

// Claim is the right to attach at one path: a directory with a lock that ends with the process. The directory outlives the
// process, and tells the next one what is left.
//
//	DIR/lock    locked
//	DIR/driver  the name of the driver
//	DIR/target  what the symbolic link leads to, written before that is made
type Claim struct {
	device string
	dir    string
	// files is the directory. A process that was started in an initramfs does not find it by its path once the machine has left that.
	files *os.Root
	lock  *os.File
}

// Take claims the absolute path device for driver, in a directory below parent that all drivers share. What a dead process of
// the same driver has left there is the caller's to remove or to take over; for a live process, or another driver's leftovers,
// the error wraps ErrTaken.
func Take(parent, driver, device string) (*Claim, error) {
	c := &Claim{device: device, dir: dir(parent, device)}
	if err := c.take(); err != nil {
		return nil, err
	}
	owner, err := os.ReadFile(c.Path("driver"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = os.WriteFile(c.Path("driver"), []byte(driver), 0o600)
	case err == nil && string(owner) != driver:
		err = fmt.Errorf("%s %w by driver %s, whose process is dead; detach it first or choose another", device, ErrTaken, owner)
	}
	if err != nil {
		return nil, errors.Join(err, c.Leave())
	}
	return c, nil
}

// take makes and locks the directory.
func (c *Claim) take() error {
	for {
		if err := os.MkdirAll(filepath.Dir(c.dir), 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		f, err := os.OpenFile(c.Path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			continue // the directory was removed under our feet
		}
		if err != nil {
			return err
		}
		if err := flock.Lock(f, true); err != nil {
			var held *flock.HeldError
			if errors.As(err, &held) {
				err = fmt.Errorf("%s %w by %s; detach it first or choose another", c.device, ErrTaken, attach.Process(held.PID))
			}
			return errors.Join(err, f.Close())
		}
		ours, err := f.Stat()
		if err != nil {
			return errors.Join(err, f.Close())
		}
		if there, err := os.Stat(c.Path("lock")); err != nil || !os.SameFile(ours, there) {
			f.Close() // whoever had it before has removed it
			continue
		}
		if c.files, err = os.OpenRoot(c.dir); err != nil {
			return errors.Join(err, f.Close())
		}
		c.lock = f
		return nil
	}
}

// Device is the path that is claimed.
func (c *Claim) Device() string { return c.device }

// Path is the path of the file called name in the claim's directory, where the driver may keep what it needs.
func (c *Claim) Path(name string) string { return filepath.Join(c.dir, name) }

// Write writes the file called name in the claim's directory.
func (c *Claim) Write(name string, b []byte) error { return c.files.WriteFile(name, b, 0o600) }

// Target is what the link was last made to lead to, whether it is still there or not; empty if it was removed by Unlink or
// never made.
func (c *Claim) Target() (string, error) {
	target, err := os.ReadFile(c.Path("target"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return string(target), err
}

// Free returns an error unless the path is free for Link.
func (c *Claim) Free() error {
	if _, err := os.Lstat(c.device); !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, c.foreign())
	}
	return nil
}

func (c *Claim) foreign() error {
	return fmt.Errorf("it exists and was not made by dnbd; remove it or choose another: %w", os.ErrExist)
}

// Link makes the path a symbolic link to target. It fails, with an error that wraps os.ErrExist, if the path exists.
func (c *Claim) Link(target string) error {
	if err := os.WriteFile(c.Path("target"), []byte(target), 0o600); err != nil {
		return err
	}
	err := os.Symlink(target, c.device)
	if errors.Is(err, os.ErrExist) {
		return c.foreign()
	}
	return err
}

// Unlink removes the link, if it is there and is the one that Link made.
func (c *Claim) Unlink() error {
	target, err := c.Target()
	if err != nil || target == "" {
		return err
	}
	if there, err := os.Readlink(c.device); err == nil && there == target {
		if err := os.Remove(c.device); err != nil {
			return err
		}
	}
	return os.Remove(c.Path("target"))
}

// Leave gives the claim up, and leaves its directory to the next one.
func (c *Claim) Leave() error { return errors.Join(c.files.Close(), c.lock.Close()) }

// Drop gives the claim up and removes its directory, from which the driver has removed what it put there.
func (c *Claim) Drop() error {
	// Never RemoveAll: if something were still mounted below it would be asked.
	var errs []error
	for _, path := range []string{c.Path("driver"), c.Path("lock"), c.dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, c.files.Close(), c.lock.Close())...)
}

// Place calls try with o.Device as an absolute path or, if it is empty, as /dev/dnbd0, /dev/dnbd1 and so on, until one of these
// is not in use: until try returns no error or one that wraps none of ErrTaken, os.ErrExist and attach.ErrBusy.
func Place(o attach.Options, try func(attach.Options) (attach.Attachment, error)) (attach.Attachment, error) {
	if o.Device != "" {
		path, err := filepath.Abs(o.Device)
		if err != nil {
			return nil, fmt.Errorf("attach %s: %w", o.Device, err)
		}
		o.Device = path
		return try(o)
	}
	for n := range maxDevices {
		o.Device = fmt.Sprintf("/dev/dnbd%d", n)
		a, err := try(o)
		if err == nil || !errors.Is(err, ErrTaken) && !errors.Is(err, os.ErrExist) && !errors.Is(err, attach.ErrBusy) {
			return a, err
		}
	}
	return nil, fmt.Errorf("attach: /dev/dnbd0 to /dev/dnbd%d are all in use", maxDevices-1)
}
