//go:build !linux || !(amd64 || arm64 || loong64 || riscv64)

package ublk

import (
	"context"
	"errors"
)

// errUnsupported is why nothing works here.
var errUnsupported = errors.New("ublk is Linux' own, and works here on amd64, arm64, loong64 and riscv64 only")

// Available returns why nothing works here.
func Available() error { return errUnsupported }

// List finds nothing.
func List() ([]Info, error) { return nil, nil }

// Get fails.
func Get(int) (Info, error) { return Info{}, errUnsupported }

// Delete fails.
func Delete(int) error { return errUnsupported }

// Disk cannot be made here.
type Disk struct{}

// New fails.
func New(context.Context, Config) (*Disk, error) { return nil, errUnsupported }

// Resume fails.
func Resume(context.Context, int, Config) (*Disk, error) { return nil, errUnsupported }

// ID is not called: there is no Disk.
func (d *Disk) ID() int { return -1 }

// Path is not called: there is no Disk.
func (d *Disk) Path() string { return "" }

// Done is not called: there is no Disk.
func (d *Disk) Done() <-chan struct{} { return nil }

// Stats is not called: there is no Disk.
func (d *Disk) Stats() Stats { return Stats{} }

// Abort is not called: there is no Disk.
func (d *Disk) Abort() error { return nil }

// Close is not called: there is no Disk.
func (d *Disk) Close() error { return nil }
