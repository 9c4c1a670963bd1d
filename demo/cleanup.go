//go:build linux

package main

import (
	"errors"
	"os"
	"slices"
)

// cleanup is what has to be undone at the end, whatever the end is.
type cleanup struct {
	dir   string // removed at the end, if nothing is left that needs it
	steps []func() error
}

// add has undo called at the end, before what was added earlier.
func (c *cleanup) add(undo func() error) { c.steps = append(c.steps, undo) }

// run undoes everything, and returns what could not be undone.
func (c *cleanup) run() error {
	var errs []error
	for _, undo := range slices.Backward(c.steps) {
		errs = append(errs, undo())
	}
	if err := errors.Join(errs...); err != nil || c.dir == "" {
		return err
	}
	return os.RemoveAll(c.dir)
}
