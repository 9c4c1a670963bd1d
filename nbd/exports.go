package nbd

import (
	"fmt"
	"slices"
	"sync/atomic"
)

// defaultBlockSize is the preferred block size of an export that names none; it is the protocol's own default.
const defaultBlockSize = 4096

// exports is the list of a server's exports. It is replaced as a whole, never changed.
type exports struct {
	list atomic.Pointer[[]Export]
}

// set replaces the list after checking it.
func (e *exports) set(list []Export) error {
	list = slices.Clone(list)
	for i := range list {
		if err := list[i].complete(); err != nil {
			return err
		}
		if slices.ContainsFunc(list[:i], func(other Export) bool { return other.Name == list[i].Name }) {
			return fmt.Errorf("export %q: another export has this name", list[i].Name)
		}
	}
	e.list.Store(&list)
	return nil
}

// complete checks x and fills in what it leaves open.
func (x *Export) complete() error {
	if x.BlockSize == 0 {
		x.BlockSize = defaultBlockSize
	}
	switch {
	case x.Name != clip(x.Name):
		return fmt.Errorf("export %q: a name has at most %d bytes of UTF-8 and no NUL", clip(x.Name), maxString)
	case x.Description != clip(x.Description):
		return fmt.Errorf("export %q: a description has at most %d bytes of UTF-8 and no NUL", x.Name, maxString)
	case x.Device == nil:
		return fmt.Errorf("export %q: no device", x.Name)
	case x.Device.Size() < 0:
		return fmt.Errorf("export %q: device of %d bytes", x.Name, x.Device.Size())
	case x.BlockSize < 512 || x.BlockSize > maxPayload || x.BlockSize&(x.BlockSize-1) != 0:
		return fmt.Errorf("export %q: block size %d is not a power of two from 512 to %d", x.Name, x.BlockSize, maxPayload)
	}
	return nil
}

// all returns the exports, in their order. The caller must not change them.
func (e *exports) all() []Export { return *e.list.Load() }

// find returns the export that a client means by name.
func (e *exports) find(name string) (Export, bool) {
	list := e.all()
	for _, x := range list {
		if x.Name == name {
			return x, true
		}
	}
	if name == "" && len(list) > 0 {
		return list[0], true
	}
	return Export{}, false
}
