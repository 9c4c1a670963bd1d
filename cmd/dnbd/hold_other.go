//go:build !linux

package main

import "errors"

var errNoDevices = errors.New("it works on Linux only")

// lockMemory fails: only Linux has devices that this program could serve.
func lockMemory() error { return errNoDevices }

// stayAlive fails, too.
func stayAlive() error { return errNoDevices }

// goFirst fails, too.
func goFirst() error { return errNoDevices }

// keptBack fails, too.
func keptBack() (int64, error) { return 0, errNoDevices }

// flushesIO does nothing: it is Linux that needs to be told.
func flushesIO() error { return nil }
