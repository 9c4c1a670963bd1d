// Package claim is what drivers of block devices share: the right to a device's path, and the symbolic link there to the
// block device that the kernel has numbered. Only Linux has such drivers.
package claim

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Exists says whether driver has claimed the absolute path device, for a process that is alive or for one that is dead.
func Exists(parent, driver, device string) bool {
	owner, err := os.ReadFile(filepath.Join(dir(parent, device), "driver"))
	return err == nil && string(owner) == driver
}

// dir is the directory below parent of the claim to device.
func dir(parent, device string) string {
	return filepath.Join(parent, url.PathEscape(strings.TrimPrefix(device, "/")))
}
