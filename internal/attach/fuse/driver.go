//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/attach/claim"
	"golang.org/x/sys/unix"
)

// driverName is what users call the driver.
const driverName = "fuse"

// Driver attaches devices with FUSE and a loop device.
type Driver struct {
	dir string
}

// New returns a driver that keeps its claims and mounts below dir, such as /run/dnbd/devices. Processes that attach to the same
// device paths must use the same directory, by whatever driver.
func New(dir string) *Driver { return &Driver{dir} }

// Name implements attach.Driver.
func (d *Driver) Name() string { return driverName }

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
	if o.Resume {
		return nil, attach.NoResume(driverName, o.Device)
	}
	return claim.Place(o, func(o attach.Options) (attach.Attachment, error) { return d.attach(dev, o) })
}

// attach attaches dev as o.Device, an absolute path.
func (d *Driver) attach(dev block.Device, o attach.Options) (_ attach.Attachment, err error) {
	a := new(attachment)
	defer func() {
		if err != nil {
			err = fmt.Errorf("attach %s: %w", o.Device, errors.Join(err, a.undo()))
		}
	}()
	if a.place, err = newPlace(d.dir, o.Device); err != nil {
		return nil, err
	}
	if err := a.place.Free(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(a.place.mountPoint(), 0o700); err != nil {
		return nil, err
	}
	disk := newDisk(dev)
	if a.mount, err = mountDisk(disk, a.place.mountPoint(), "dnbd:"+o.Name, o.Log); err != nil {
		return nil, err
	}
	a.done = a.mount.done
	if a.loop, err = attachLoop(a.place.diskPath(), disk.writable); err != nil {
		return nil, err
	}
	if err := a.place.Link(string(a.loop)); err != nil {
		return nil, err
	}
	return a, nil
}
