package ublk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/attach/claim"
	"github.com/dnbd/dnbd/ublk"
)

const (
	// driverName is what users call the driver.
	driverName = "ublk"
	// tagFile is the file of a claim with the number that the kernel keeps with the block device.
	tagFile = "tag"
)

// Driver attaches devices with ublk.
type Driver struct {
	dir string
}

// New returns a driver that keeps its claims below dir, such as /run/dnbd/devices. Processes that attach to the same device paths
// must use the same directory, by whatever driver.
func New(dir string) *Driver { return &Driver{dir} }

// Name implements attach.Driver.
func (d *Driver) Name() string { return driverName }

// Available implements attach.Driver.
func (d *Driver) Available() error { return ublk.Available() }

// Attach implements attach.Driver.
func (d *Driver) Attach(ctx context.Context, dev block.Device, o attach.Options) (attach.Attachment, error) {
	config := ublk.Config{Device: whole(dev), Recover: true}
	if o.Resume {
		a, err := d.resume(ctx, config, o.Device)
		if err != nil {
			return nil, fmt.Errorf("resume %s: %w", o.Device, err)
		}
		return a, nil
	}
	search := o.Device == ""
	return claim.Place(o, func(o attach.Options) (attach.Attachment, error) {
		a, err := d.attach(ctx, config, o.Device, search)
		if err != nil {
			return nil, fmt.Errorf("attach %s: %w", o.Device, err)
		}
		return a, nil
	})
}

// attach attaches a device as path, which is absolute. What a dead process has left there is replaced, but not if this is a search
// for a free path and somebody may still resume it.
func (d *Driver) attach(ctx context.Context, config ublk.Config, path string, search bool) (_ *attachment, err error) {
	c, err := claim.Take(d.dir, driverName, path)
	if err != nil {
		return nil, err
	}
	if err := clean(c, search); err != nil {
		return nil, errors.Join(err, c.Leave())
	}
	config.Tag = rand.Uint64()
	var disk *ublk.Disk
	err = c.Free()
	if err == nil {
		err = os.WriteFile(c.Path(tagFile), strconv.AppendUint(nil, config.Tag, 16), 0o600)
	}
	if err == nil {
		disk, err = ublk.New(ctx, config)
	}
	if err == nil {
		if err = c.Link(disk.Path()); err == nil {
			return &attachment{claim: c, disk: disk}, nil
		}
		err = errors.Join(err, disk.Close())
	}
	return nil, errors.Join(err, drop(c))
}

// resume takes over what a dead process has left at path.
func (d *Driver) resume(ctx context.Context, config ublk.Config, path string) (*attachment, error) {
	if !claim.Exists(d.dir, driverName, path) {
		return nil, fmt.Errorf("driver %s has not attached it", driverName)
	}
	c, err := claim.Take(d.dir, driverName, path)
	if err != nil {
		return nil, err
	}
	disk, err := resume(ctx, config, c)
	if err != nil {
		// The claim stays: what is left can still be resumed with another device, or cleaned up.
		return nil, errors.Join(err, c.Leave())
	}
	return &attachment{claim: c, disk: disk}, nil
}

func resume(ctx context.Context, config ublk.Config, c *claim.Claim) (*ublk.Disk, error) {
	left, err := leftover(c)
	if err != nil {
		return nil, err
	}
	if left == nil {
		return nil, errors.New("its process is dead, and so is the device; attach it again")
	}
	// Its process may have died before it made the link, and somebody may have removed it.
	if target, err := os.Readlink(c.Device()); err != nil || target != left.Path() {
		if err := errors.Join(c.Unlink(), c.Link(left.Path())); err != nil {
			return nil, err
		}
	}
	return ublk.Resume(ctx, left.ID, config)
}

// Clean removes what a process that was killed has left of device, an absolute path, and says whether there was anything. It is an
// error when a live process has attached the device, or when somebody still uses it. What waits for the device fails.
func (d *Driver) Clean(device string) (found bool, err error) {
	if !claim.Exists(d.dir, driverName, device) {
		return false, nil
	}
	c, err := claim.Take(d.dir, driverName, device)
	if err == nil {
		if err = clean(c, false); err != nil {
			err = errors.Join(err, c.Leave())
		} else {
			err = drop(c)
		}
	}
	if err != nil {
		return true, fmt.Errorf("detach %s: %w", device, err)
	}
	return true, nil
}

// errOrphan is why a search for a free path goes on.
var errOrphan = fmt.Errorf("%w by a process that died; resume or detach it", claim.ErrTaken)

// clean removes what a dead process has left, and fails if that is in use, or is to be kept because it can be resumed.
func clean(c *claim.Claim, keep bool) error {
	left, err := leftover(c)
	if err != nil {
		return err
	}
	if left != nil {
		if keep && left.State != ublk.Dead {
			return errOrphan
		}
		if err := deleteUnused(c, left.Path(), func() error { return ublk.Delete(left.ID) }); err != nil {
			return err
		}
	}
	return c.Unlink()
}

// leftover finds the block device that the claim's last process has made, or nil.
func leftover(c *claim.Claim) (*ublk.Info, error) {
	raw, err := os.ReadFile(c.Path(tagFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // it had not got so far
	}
	if err != nil {
		return nil, err
	}
	tag, err := strconv.ParseUint(string(raw), 16, 64)
	if err != nil {
		return nil, nil // it died while it wrote it, which it does first
	}
	disks, err := ublk.List()
	if err != nil {
		return nil, err
	}
	for _, i := range disks {
		if i.Tag == tag {
			return &i, nil
		}
	}
	return nil, nil
}

// drop gives the claim up and removes its directory.
func drop(c *claim.Claim) error {
	err := os.Remove(c.Path(tagFile))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, c.Drop())
}
