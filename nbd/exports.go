package nbd

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// defaultBlockSize is the preferred block size of an export that names none; it is the protocol's own default.
const defaultBlockSize = 4096

// Export is a device that clients can ask for by name.
type Export struct {
	// Name is what clients ask for: at most 4096 bytes of UTF-8 without NUL, and unique among a server's exports. A client
	// that asks for the empty name gets the export with the empty name or, when there is none, the first one.
	Name string
	// Description is a text for people that clients may show beside the name. It may be empty.
	Description string
	// Device has the bytes. What clients are offered is what it can do. The server does not close it.
	Device Device
	// Open, instead of Device, opens a device for each client that chooses the export.
	Open OpenFunc
	// Shared promises that the devices that Open returns are the same bytes, and that a flush of one, if they have it, covers
	// all. It offers clients to use several connections at once.
	Shared bool
	// ReadOnly keeps clients from changing a device that could be changed.
	ReadOnly bool
	// NoFUA keeps from clients that a device that can be written to takes FUA. One who sets it all the same is heeded.
	NoFUA bool
	// NeedsTLS hides the export from clients until they use TLS.
	NeedsTLS bool
	// Hidden leaves the export out of the list that clients can ask for. Those who know its name are served.
	Hidden bool
	// IdleTimeout is the server's for clients of this export, if it is not 0.
	IdleTimeout time.Duration
	// Rotational tells clients that the device seeks, so that they sort their requests.
	Rotational bool
	// BlockSize is the size and alignment in bytes of requests that suits the device best, which clients are told: a power of
	// two from 512 to 64 MiB. 0 means 4096. Requests may have any other size.
	BlockSize uint32
	// Contexts are metadata contexts beside base:allocation, which every export has. Their names are not in the namespace
	// base.
	Contexts []Context
}

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
	case x.Device == nil && x.Open == nil:
		return fmt.Errorf("export %q: no device", x.Name)
	case x.Device != nil && x.Open != nil:
		return fmt.Errorf("export %q: a device, and a function that opens one; want one of them", x.Name)
	case x.Device != nil && x.Device.Size() < 0:
		return fmt.Errorf("export %q: device of %d bytes", x.Name, x.Device.Size())
	case x.BlockSize < 512 || x.BlockSize > maxPayload || x.BlockSize&(x.BlockSize-1) != 0:
		return fmt.Errorf("export %q: block size %d is not a power of two from 512 to %d", x.Name, x.BlockSize, maxPayload)
	}
	for i, c := range x.Contexts {
		namespace, leaf, _ := strings.Cut(c.Name, ":")
		switch {
		case c.Name != clip(c.Name) || namespace == "" || namespace == "base" || leaf == "":
			return fmt.Errorf("export %q: metadata context %q is not a namespace other than base, a colon and a name", x.Name, c.Name)
		case c.Status == nil:
			return fmt.Errorf("export %q: metadata context %q has no function", x.Name, c.Name)
		case slices.ContainsFunc(x.Contexts[:i], func(other Context) bool { return other.Name == c.Name }):
			return fmt.Errorf("export %q: metadata context %q twice", x.Name, c.Name)
		}
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
