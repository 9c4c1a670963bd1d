//go:build linux

package nbd

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/attach/claim"
	"github.com/dnbd/dnbd/internal/nbdkernel"
)

// owner is how the backend identifier of what is attached at a path begins. It tells this program's devices from others'.
func owner(path string) string { return "dnbd " + oneLine(path) + " " }

// backend is the whole identifier: sysfs shows it, and the kernel reconfigures a device only for who knows it.
func backend(o attach.Options) string { return owner(o.Device) + oneLine(o.ID) }

// oneLine writes what may have several lines as one.
func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\x00", " ").Replace(s) }

// leftover returns the kernel's device that a dead process has left at c's path, if there is one. Kernels before 5.14 do not
// say whose a device is; there is none then.
func leftover(c *claim.Claim) (k nbdkernel.Device, found bool, err error) {
	path, err := c.Target()
	if err != nil {
		return k, false, err
	}
	if path == "" {
		path = c.Device()
	}
	index, ok := nbdkernel.Index(path)
	if !ok {
		return k, false, nil
	}
	k, err = nbdkernel.Look(index)
	if errors.Is(err, fs.ErrNotExist) {
		return k, false, nil
	}
	return k, err == nil && k.Connected() && strings.HasPrefix(k.Backend, owner(c.Device())), err
}

// resume takes over what a dead process has left.
func (d *device) resume(left nbdkernel.Device, found bool, p plan) error {
	switch {
	case !found:
		return fmt.Errorf("resume: by driver nbd, %w", attach.ErrNothingLeft)
	case left.Backend != d.backend:
		return fmt.Errorf("resume: something else is attached there: %s", strings.TrimPrefix(left.Backend, owner(d.claim.Device())))
	case left.Size != p.size/int64(p.blockSize)*int64(p.blockSize):
		return fmt.Errorf("resume: the device has %d bytes, and what is to be behind it %d", left.Size, p.size)
	}
	d.index = left.Index
	if err := d.Adjust(d.times); err != nil {
		return err
	}
	if d.outlive {
		notices, err := d.control.Listen()
		if err != nil {
			return err
		}
		d.wg.Go(func() { d.listen(notices) })
		d.wg.Go(func() {
			<-d.ctx.Done()
			_ = notices.Close()
		})
	}
	d.inherited = recorded(d.claim)
	now := time.Now()
	for range left.Connections {
		d.links = append(d.links, slot{alive: d.outlive, since: now})
	}
	for n := range left.Connections {
		d.wg.Go(func() { d.keep(n, nil) })
	}
	return nil
}

// clean takes down what a dead process has left, unless it is in use and force is false.
func clean(control *nbdkernel.Control, c *claim.Claim, left nbdkernel.Device, force bool) error {
	if !force {
		holders, err := attach.Holders(c.Device(), left.Path())
		if err != nil {
			return err
		}
		if len(holders) > 0 {
			return attach.Busy(c.Device(), holders)
		}
	} else {
		destroyRecorded(c)
	}
	return errors.Join(c.Unlink(), forget(c), control.Disconnect(left.Index))
}

// Clean removes what a process that was killed has left of device, an absolute path, and says whether there was anything.
// It is an error when a live process has attached the device, or when somebody still uses it.
func (d *Driver) Clean(device string) (found bool, err error) { return d.clean(device, false) }

// ForceClean is Clean for a device that somebody may use: what is under way, and whatever is asked of it later, fails.
func (d *Driver) ForceClean(device string) (found bool, err error) { return d.clean(device, true) }

func (d *Driver) clean(device string, force bool) (found bool, err error) {
	if !claim.Exists(d.dir, driverName, device) {
		return false, nil
	}
	if err := d.remove(device, force); err != nil {
		return true, fmt.Errorf("detach %s: %w", device, err)
	}
	return true, nil
}

// remove removes what is left of device.
func (d *Driver) remove(device string, force bool) error {
	c, err := claim.Take(d.dir, driverName, device)
	if err != nil {
		return err
	}
	left, found, err := leftover(c)
	if err == nil && found {
		var control *nbdkernel.Control
		if control, err = nbdkernel.Open(); err == nil {
			err = errors.Join(clean(control, c, left, force), control.Close())
		}
	}
	if err == nil {
		err = errors.Join(c.Unlink(), forget(c))
	}
	if err != nil {
		return errors.Join(err, c.Leave())
	}
	return c.Drop()
}

// features are the words for transmission flags.
func features(flags uint16) (words []string) {
	for bit, word := range []string{"", "read-only", "flush", "fua", "rotational", "trim", "write-zeroes", "", "multi-conn"} {
		if word != "" && flags&(1<<bit) != 0 {
			words = append(words, word)
		}
	}
	return words
}
