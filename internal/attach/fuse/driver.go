//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/attach"
	"golang.org/x/sys/unix"
)

// maxDevices bounds the search for a free /dev/dnbdN.
const maxDevices = 1024

// Driver attaches devices with FUSE and a loop device.
type Driver struct {
	dir string
}

// New returns a driver that keeps its mounts below dir, such as /run/dnbd/fuse. Processes that attach to the same device
// paths must use the same directory.
func New(dir string) *Driver { return &Driver{dir} }

// Name implements attach.Driver.
func (d *Driver) Name() string { return "fuse" }

// Available implements attach.Driver.
func (d *Driver) Available() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("ask for this process's capabilities: %w", err)
	}
	if os.Geteuid() != 0 || sets[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return errors.New("it needs root")
	}
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		if err := unix.Close(fd); err != nil {
			return fmt.Errorf("close %s: %w", path, err)
		}
	}
	return nil
}

// Attach implements attach.Driver.
func (d *Driver) Attach(_ context.Context, dev block.Device, o attach.Options) (attach.Attachment, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Device != "" {
		path, err := filepath.Abs(o.Device)
		if err != nil {
			return nil, fmt.Errorf("attach %s: %w", o.Device, err)
		}
		o.Device = path
		return d.attach(dev, o)
	}
	for n := range maxDevices {
		o.Device = fmt.Sprintf("/dev/dnbd%d", n)
		a, err := d.attach(dev, o)
		if err == nil || !errors.Is(err, errClaimed) && !errors.Is(err, os.ErrExist) && !errors.Is(err, attach.ErrBusy) {
			return a, err
		}
	}
	return nil, fmt.Errorf("attach: /dev/dnbd0 to /dev/dnbd%d are all in use", maxDevices-1)
}

// attach attaches dev as o.Device, an absolute path.
func (d *Driver) attach(dev block.Device, o attach.Options) (_ attach.Attachment, err error) {
	a := new(attachment)
	defer func() {
		if err != nil {
			err = fmt.Errorf("attach %s: %w", o.Device, errors.Join(err, a.undo()))
		}
	}()
	if a.claim, err = newClaim(d.dir, o.Device); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(o.Device); err == nil {
		return nil, fmt.Errorf("it exists and was not made by dnbd; remove it or choose another: %w", os.ErrExist)
	}
	if err := os.MkdirAll(a.claim.mountPoint(), 0o700); err != nil {
		return nil, err
	}
	disk := newDisk(dev)
	if a.mount, err = mountDisk(disk, a.claim.mountPoint(), "dnbd:"+o.Name, o.Log); err != nil {
		return nil, err
	}
	a.done = a.mount.done
	if a.loop, err = attachLoop(a.claim.diskPath(), disk.writable); err != nil {
		return nil, err
	}
	if err := a.claim.link(a.loop); err != nil {
		return nil, err
	}
	return a, nil
}
