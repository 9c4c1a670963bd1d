package main

import (
	"path/filepath"

	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/attach/fuse"
	kernelnbd "github.com/dnbd/dnbd/internal/attach/nbd"
	"github.com/dnbd/dnbd/internal/attach/socket"
	"github.com/dnbd/dnbd/internal/attach/ublk"
	"github.com/dnbd/dnbd/internal/control"
)

// The names of the drivers that are treated in a way of their own.
const (
	socketDriver = "socket"
	nbdDriver    = "nbd"
)

// drivers are the ways to attach, the best first.
func drivers() []attach.Driver {
	var all []attach.Driver
	for _, d := range deviceDrivers() {
		all = append(all, d)
	}
	return append(all, newSocketDriver())
}

// deviceDriver is a driver that makes block devices.
type deviceDriver interface {
	attach.Driver
	// Clean removes what a process that was killed has left of the device at an absolute path, and says whether there was
	// anything.
	Clean(device string) (found bool, err error)
}

// deviceDrivers are those that make block devices, the best first.
func deviceDrivers() []deviceDriver {
	return []deviceDriver{newUblkDriver(), newNBDDriver(), newFuseDriver()}
}

// forcer is a deviceDriver that can clean up what is in use, too.
type forcer interface {
	// ForceClean is Clean for a device that somebody may use: what is under way, and whatever is asked of it later, fails.
	ForceClean(device string) (found bool, err error)
}

// claims is where the drivers of block devices keep what tells them of one another.
func claims() string { return filepath.Join(control.Dir(), "devices") }

// newUblkDriver is the driver that uses the kernel's driver for block devices of processes.
func newUblkDriver() *ublk.Driver { return ublk.New(claims()) }

// newFuseDriver is the driver that nearly every kernel has what it takes for.
func newFuseDriver() *fuse.Driver { return fuse.New(claims()) }

// newNBDDriver is the driver that uses the kernel's NBD client.
func newNBDDriver() *kernelnbd.Driver { return kernelnbd.New(claims()) }

// newSocketDriver is the driver that makes sockets, which works everywhere.
func newSocketDriver() *socket.Driver { return socket.New(filepath.Join(control.Dir(), "nbd")) }
