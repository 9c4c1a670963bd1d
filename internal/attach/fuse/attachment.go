//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
	"errors"
	"sync"

	"github.com/dnbd/dnbd/internal/attach"
	"golang.org/x/sys/unix"
)

// attachment is a device that is attached, or on its way there or back. What is nil or empty is not there yet or any
// more.
type attachment struct {
	place *place
	done  <-chan struct{} // the mount's: it ends whoever unmounts it

	mu    sync.Mutex // held by Close
	mount *mount
	loop  loop
	ended bool // undone as a whole
}

// Path implements attach.Attachment.
func (a *attachment) Path() string { return a.place.Device() }

// Driver implements attach.Attachment.
func (a *attachment) Driver() string { return driverName }

// Done implements attach.Attachment.
func (a *attachment) Done() <-chan struct{} { return a.done }

// Holders implements attach.Attachment. Users of the disk's file count too.
func (a *attachment) Holders() ([]string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.holdersLocked()
}

func (a *attachment) holdersLocked() ([]string, error) {
	paths := []string{a.place.Device(), a.place.mountPoint(), a.place.diskPath()}
	if a.loop != "" {
		paths = append(paths, string(a.loop))
	}
	return attach.Holders(paths...)
}

// Close implements attach.Attachment.
func (a *attachment) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return nil
	}
	holders, err := a.holdersLocked()
	if err != nil {
		return err
	}
	if len(holders) > 0 {
		return attach.Busy(a.place.Device(), holders)
	}
	return a.undo()
}

// undo takes down what is there, in the order that the package's comment explains, and stops where something is in use;
// it can be called again then. The caller holds mu, unless nobody else knows a yet.
func (a *attachment) undo() error {
	if a.place == nil {
		return nil
	}
	if err := a.undoLoop(); err != nil {
		return err
	}
	if err := a.undoMount(); err != nil {
		return err
	}
	a.ended = true
	return a.place.drop()
}

// undoLoop disconnects the loop device and removes the link to it.
func (a *attachment) undoLoop() error {
	if a.loop == "" {
		return nil
	}
	over := a.mount.unstick()
	defer over()
	if err := a.place.free(a.loop); err != nil {
		return err
	}
	a.loop = ""
	return nil
}

// undoMount unmounts the disk.
func (a *attachment) undoMount() error {
	if a.mount == nil {
		return nil
	}
	over := a.mount.unstick()
	defer over()
	err := a.mount.unmount()
	if errors.Is(err, unix.EBUSY) {
		return attach.Busy(a.place.Device(), []string{"somebody who cannot be seen from here uses " + a.place.mountPoint()})
	}
	if err != nil {
		return err
	}
	a.mount = nil
	return nil
}
