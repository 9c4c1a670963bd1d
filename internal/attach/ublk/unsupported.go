//go:build !linux

package ublk

import (
	"context"
	"fmt"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/ublk"
)

// Driver stands in for the driver where that cannot be built.
type Driver struct{}

// New returns a driver that is not available.
func New(string) *Driver { return new(Driver) }

// Name implements attach.Driver.
func (d *Driver) Name() string { return "ublk" }

// Available implements attach.Driver.
func (d *Driver) Available() error { return ublk.Available() }

// Attach implements attach.Driver.
func (d *Driver) Attach(_ context.Context, _ block.Device, o attach.Options) (attach.Attachment, error) {
	return nil, fmt.Errorf("attach %s: %w", o.Device, ublk.Available())
}

// Clean finds nothing: nothing was ever attached.
func (d *Driver) Clean(string) (found bool, err error) { return false, nil }

// ForceClean finds nothing, too.
func (d *Driver) ForceClean(string) (found bool, err error) { return false, nil }
