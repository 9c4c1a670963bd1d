package main

import (
	"path/filepath"

	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/attach/fuse"
	"github.com/dnbd/dnbd/internal/attach/socket"
	"github.com/dnbd/dnbd/internal/control"
)

// The names of the drivers: that of sockets, and that of block devices.
const (
	socketDriver = "socket"
	deviceDriver = "fuse"
)

// drivers are the ways to attach, the best first.
func drivers() []attach.Driver { return []attach.Driver{newDeviceDriver(), newSocketDriver()} }

// newDeviceDriver is the driver that makes block devices.
func newDeviceDriver() *fuse.Driver { return fuse.New(filepath.Join(control.Dir(), "devices")) }

// newSocketDriver is the driver that makes sockets, which works everywhere.
func newSocketDriver() *socket.Driver { return socket.New(filepath.Join(control.Dir(), "nbd")) }
