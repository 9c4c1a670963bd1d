//go:build !linux

package main

import "errors"

// holdMemory fails: only Linux has devices that this program could serve.
func holdMemory() error { return errors.New("it works on Linux only") }
