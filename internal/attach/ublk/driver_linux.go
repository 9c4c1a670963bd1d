package ublk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/attach/claim"
	"github.com/dnbd/dnbd/internal/attach/sectors"
	"github.com/dnbd/dnbd/ublk"
)

// driverName is what users call the driver.
const driverName = "ublk"

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
	config := ublk.Config{Device: sectors.Whole(dev), Recover: true}
	search := o.Device == ""
	return claim.Place(o, func(o attach.Options) (attach.Attachment, error) {
		a, err := d.attach(ctx, config, o, search)
		if err != nil {
			return nil, fmt.Errorf("attach %s: %w", o.Device, err)
		}
		return a, nil
	})
}

// attach attaches a device at o.Device, an absolute path. What a dead process has left there is replaced, but not if this is a
// search for a free path and somebody may still resume it.
func (d *Driver) attach(ctx context.Context, config ublk.Config, o attach.Options, search bool) (*attachment, error) {
	c, err := claim.Take(d.dir, driverName, o.Device)
	if err != nil {
		return nil, err
	}
	if o.Resume {
		disk, err := resume(ctx, config, c, o.ID)
		if err != nil {
			// The claim stays: what is left can still be resumed, or cleaned up.
			return nil, errors.Join(err, c.Leave())
		}
		return &attachment{claim: c, disk: disk, config: config}, nil
	}
	if err := clean(c, search); err != nil {
		return nil, errors.Join(err, c.Leave())
	}
	disk, err := connect(ctx, config, c, o.ID)
	if err != nil {
		return nil, errors.Join(err, drop(c))
	}
	return &attachment{claim: c, disk: disk, config: config}, nil
}

// connect makes the block device of a new attachment.
func connect(ctx context.Context, config ublk.Config, c *claim.Claim, id string) (*ublk.Disk, error) {
	if err := c.Free(); err != nil {
		return nil, err
	}
	config.Tag = rand.Uint64()
	if err := writeRecord(c, record{Tag: config.Tag, ID: id}); err != nil {
		return nil, err
	}
	disk, err := ublk.New(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := c.Link(disk.Path()); err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	return disk, nil
}

// resume takes over what a dead process has left.
func resume(ctx context.Context, config ublk.Config, c *claim.Claim, id string) (*ublk.Disk, error) {
	was, left, err := leftover(c)
	switch {
	case err != nil:
		return nil, err
	case left == nil:
		return nil, fmt.Errorf("resume: by driver ublk, %w", attach.ErrNothingLeft)
	case was.ID != id:
		return nil, fmt.Errorf("resume: something else is attached there: %s", was.ID)
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
// error when a live process has attached the device, or when somebody still uses it.
func (d *Driver) Clean(device string) (found bool, err error) {
	return d.clean(device, func(c *claim.Claim) error { return clean(c, false) })
}

// ForceClean is Clean for a device that somebody may use: what is under way, and whatever is asked of it later, fails.
func (d *Driver) ForceClean(device string) (found bool, err error) {
	return d.clean(device, func(c *claim.Claim) error {
		_, left, err := leftover(c)
		if err == nil && left != nil {
			err = ublk.Delete(left.ID)
		}
		return errors.Join(err, c.Unlink())
	})
}

func (d *Driver) clean(device string, remove func(*claim.Claim) error) (found bool, err error) {
	if !claim.Exists(d.dir, driverName, device) {
		return false, nil
	}
	c, err := claim.Take(d.dir, driverName, device)
	if err == nil {
		if err = remove(c); err != nil {
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
	_, left, err := leftover(c)
	if err != nil {
		return err
	}
	if left != nil {
		if keep && left.State != ublk.Dead {
			return errOrphan
		}
		if err := unused(c, left.Path(), func() error { return ublk.Delete(left.ID) }); err != nil {
			return err
		}
	}
	return c.Unlink()
}
