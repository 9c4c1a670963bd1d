//go:build !linux

package main

import (
	"fmt"
	"io/fs"
)

// kernelPID finds no device: only Linux has them.
func kernelPID(device string) (int, error) { return 0, fmt.Errorf("%s: %w", device, fs.ErrNotExist) }
