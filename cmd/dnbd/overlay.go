package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/durable"
	"github.com/dnbd/dnbd/internal/layer/overlay"
	"github.com/dnbd/dnbd/internal/source/file"
)

// cowMemory is what --cow calls an overlay in memory.
const cowMemory = "mem"

// maxMemory bounds the search for an overlay in memory that nobody uses.
const maxMemory = 1024

// overlaid is a device with an overlay over it.
type overlaid struct {
	*overlay.Device
	path string
	made bool // the file was not there before
}

// openOverlay puts the overlay in the file at path, which it makes if it is missing, over d, which is. The device owns d if the
// error is nil.
func openOverlay(ctx context.Context, d block.Device, path string, is overlay.Base) (*overlaid, error) {
	fi, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	o := &overlaid{path: path, made: err != nil}
	open := func() (*file.Writable, error) { return file.OpenWritable(path, true) }
	if o.made || fi.Mode().IsRegular() && fi.Size() == 0 {
		open = func() (*file.Writable, error) { return file.Create(path, overlay.Size(is.Size)) }
	}
	scratch, err := open()
	if err != nil {
		return nil, err
	}
	if o.made {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err == nil {
		o.Device, err = overlay.Open(ctx, d, scratch, is)
	}
	if err == nil {
		return o, nil
	}
	var mismatch *overlay.MismatchError
	if errors.As(err, &mismatch) && mismatch.Of.Name == mismatch.Wanted.Name {
		err = fmt.Errorf("%w; name the revision that it belongs to, or see 'dnbd cow rebase'", err)
	}
	err = errors.Join(fmt.Errorf("%s: %w", path, err), scratch.Close())
	if o.made {
		err = errors.Join(err, os.Remove(path))
	}
	return nil, err
}

// described is a device that is an image, of a file or of a group.
type described interface{ Descriptor() image.Descriptor }

// baseOf says what a device is that was opened by name, for an overlay over it.
func baseOf(name string, d block.Device) overlay.Base {
	if m, ok := d.(described); ok {
		is := m.Descriptor()
		return overlay.Base{Name: is.Name, Revision: is.Revision, ID: is.ID(), Size: is.Size}
	}
	return overlay.Base{Name: name, Size: d.Size()}
}

// openOverlay puts the overlay over d, opened by name, that --cow asks for. Without it, it returns nil. d stays the caller's.
func (o *attachOptions) openOverlay(ctx context.Context, d block.Device, name string) (over *overlaid, err error) {
	is := baseOf(name, d)
	d = block.Borrow(d)
	switch o.cow {
	case "":
		return nil, nil
	case cowMemory:
		over, err = o.openInMemory(ctx, d, is)
	default:
		over, err = openOverlay(ctx, d, o.cow, is)
	}
	if err != nil {
		return nil, fmt.Errorf("--cow: %w", err)
	}
	return over, nil
}

// openInMemory opens the overlay of a device in memory: that of a process that was killed, or a new one.
func (o *attachOptions) openInMemory(ctx context.Context, d block.Device, is overlay.Base) (*overlaid, error) {
	dir, err := memoryDir()
	if err != nil {
		return nil, err
	}
	name := is.ID.String()
	if as := o.device + o.socket; as != "" {
		name += "-" + control.Name(as)
	}
	for n := range maxMemory {
		over, err := openOverlay(ctx, d, filepath.Join(dir, fmt.Sprintf("%s-%d", name, n)), is)
		if !errors.Is(err, file.ErrInUse) {
			return over, err
		}
	}
	return nil, fmt.Errorf("%d overlays of this image are in use", maxMemory)
}

// end closes the device. An overlay in memory is gone then, unless the attachment failed with err and it was there before.
func (o *overlaid) end(inMemory bool, err error) error {
	err = errors.Join(err, o.Close())
	if inMemory && (err == nil || o.made) {
		err = errors.Join(err, os.Remove(o.path))
	}
	return err
}

// status is the overlay as the control socket shows it.
func (o *overlaid) status() *control.Overlay {
	if o == nil {
		return nil
	}
	held := o.Held()
	return &control.Overlay{File: o.path, Data: held.Data, Zero: held.Zero}
}
