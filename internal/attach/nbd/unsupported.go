//go:build !linux

package nbd

import (
	"context"
	"errors"
	"fmt"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/nbd"
)

// errUnsupported is why nothing works here.
var errUnsupported = errors.New("it works on Linux only")

// Driver stands in for the driver where there is no Linux.
type Driver struct{}

// RemoteOptions are how AttachRemote would talk to the server.
type RemoteOptions struct {
	Dial      nbd.DialConfig
	ReadOnly  bool
	BlockSize int
	Size      int64
}

// New returns a driver that is not available.
func New(string) *Driver { return new(Driver) }

// Name implements attach.Driver.
func (d *Driver) Name() string { return "nbd" }

// Available implements attach.Driver.
func (d *Driver) Available() error { return errUnsupported }

// Attach implements attach.Driver.
func (d *Driver) Attach(_ context.Context, _ block.Device, o attach.Options) (attach.Attachment, error) {
	return nil, fmt.Errorf("attach %s: %w", o.Device, errUnsupported)
}

// AttachRemote fails.
func (d *Driver) AttachRemote(_ context.Context, _ string, _ RemoteOptions, o attach.Options) (attach.Attachment, error) {
	return nil, fmt.Errorf("attach %s: %w", o.Device, errUnsupported)
}

// Clean finds nothing: nothing was ever attached.
func (d *Driver) Clean(string) (found bool, err error) { return false, nil }

// ForceClean finds nothing, too.
func (d *Driver) ForceClean(string) (found bool, err error) { return false, nil }
