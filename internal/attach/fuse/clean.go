//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
	"fmt"

	"github.com/dnbd/dnbd/internal/attach/claim"
)

// Clean removes what a process that was killed has left of device, an absolute path, and says whether there was anything.
// It is an error when a live process has attached the device, or when somebody still uses it.
func (d *Driver) Clean(device string) (found bool, err error) {
	if !claim.Exists(d.dir, driverName, device) {
		return false, nil
	}
	p, err := newPlace(d.dir, device)
	if err == nil {
		err = p.drop()
	}
	if err != nil {
		return true, fmt.Errorf("detach %s: %w", device, err)
	}
	return true, nil
}
