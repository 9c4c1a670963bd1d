//go:build !linux || 386 || arm || mips || mipsle

package fuse

import (
	"context"
	"errors"
	"fmt"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/attach"
)

// errUnsupported is why nothing works here: there is no Linux, or the FUSE library does not build for its processor.
var errUnsupported = errors.New("it works on Linux with 64-bit processors only")

// Driver stands in for the driver where that cannot be built.
type Driver struct{}

// New returns a driver that is not available.
func New(string) *Driver { return new(Driver) }

// Name implements attach.Driver.
func (d *Driver) Name() string { return "fuse" }

// Available implements attach.Driver.
func (d *Driver) Available() error { return errUnsupported }

// Attach implements attach.Driver.
func (d *Driver) Attach(_ context.Context, _ block.Device, o attach.Options) (attach.Attachment, error) {
	return nil, fmt.Errorf("attach %s: %w", o.Device, errUnsupported)
}

// Clean finds nothing: nothing was ever attached.
func (d *Driver) Clean(string) (found bool, err error) { return false, nil }
