//go:build !linux

package ownroot

import "errors"

// Enter fails: only Linux has roots that dnbd could carry.
func Enter() error { return errors.New("it works on Linux only") }
