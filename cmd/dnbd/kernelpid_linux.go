package main

import (
	"fmt"
	"path/filepath"

	"github.com/dnbd/dnbd/internal/nbdkernel"
)

// kernelPID is the process that connected an NBD device of the kernel's, 0 if it is not connected. The error wraps
// fs.ErrNotExist when there is no such device.
func kernelPID(device string) (int, error) {
	path, err := filepath.EvalSymlinks(device)
	if err != nil {
		return 0, err
	}
	index, ok := nbdkernel.Index(path)
	if !ok {
		return 0, fmt.Errorf("%s is no NBD device", device)
	}
	k, err := nbdkernel.Look(index)
	return k.PID, err
}
