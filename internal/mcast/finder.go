package mcast

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/wire"
)

// Found is an image on a server.
type Found struct {
	Server     uint16
	Epoch      uint32
	Addr       netip.AddrPort
	NBD        uint16 // TCP port of the server's NBD exports, 0 for none
	Handle     uint16
	Group      netip.AddrPort
	Descriptor image.Descriptor
	Signature  []byte // of the descriptor, unchecked; nil for none
}

// NewFound is what a server at an address says by one of the offers of its WELCOME. The error says why it cannot be one.
func NewFound(from netip.AddrPort, w *wire.Welcome, o *wire.Offer) (Found, error) {
	d, err := Descriptor(o)
	return Found{
		Server: w.Server, Epoch: w.Epoch, Addr: from, NBD: w.NBD, Handle: o.Handle, Group: o.Group, Descriptor: d,
		Signature: o.Signature,
	}, err
}

// maxFound bounds what strangers can make a Finder remember.
const maxFound = 4096

// Finder asks a group what it offers. It hears the servers that answer, and those that announce themselves.
type Finder struct {
	group   netip.AddrPort
	greeter greeter
	helloAt time.Time
	wait    time.Duration
	found   []Found
	servers map[netip.AddrPort]uint16
	packets []Packet
}

// NewFinder returns a Finder that will ask for what ask names, with a random nonce.
func NewFinder(now time.Time, group netip.AddrPort, ask wire.Hello) *Finder {
	return &Finder{
		group: group, greeter: greeter{hello: ask}, helloAt: now,
		servers: map[netip.AddrPort]uint16{},
	}
}

// Input takes one datagram that arrived. It does not keep b.
func (f *Finder) Input(now time.Time, from netip.AddrPort, b []byte) {
	switch t, _ := wire.TypeOf(b); t {
	case wire.TypeAnnounce:
		a, err := wire.ParseAnnounce(b)
		if err != nil {
			return
		}
		f.serve(from, a.Server)
		if a.Leaving {
			f.found = slices.DeleteFunc(f.found, func(x Found) bool { return x.Addr == from })
		} else {
			f.greet(now, from, 0)
		}
	case wire.TypeWelcome:
		w, err := wire.ParseWelcome(b)
		if err != nil || w.Nonce != f.greeter.hello.Nonce {
			return
		}
		f.serve(from, w.Server)
		if w.Parts == 0 {
			f.greet(now, from, w.Cookie)
			return
		}
		f.greeter.answered(from)
		for i := range w.Offers {
			f.note(from, &w, &w.Offers[i])
		}
	}
}

func (f *Finder) serve(from netip.AddrPort, id uint16) {
	if len(f.servers) < maxReplicas {
		f.servers[from] = id
	}
}

func (f *Finder) greet(now time.Time, to netip.AddrPort, cookie uint64) {
	f.packets = f.greeter.ask(f.packets, now, to, cookie)
}

func (f *Finder) note(from netip.AddrPort, w *wire.Welcome, o *wire.Offer) {
	n, err := NewFound(from, w, o)
	if err != nil {
		return
	}
	// A server's newest word counts.
	f.found = slices.DeleteFunc(f.found, func(x Found) bool {
		return x.Addr == from && (x.Handle == o.Handle || x.Epoch != w.Epoch)
	})
	if len(f.found) >= maxFound {
		f.found = f.found[1:] // what is still true will be said again
	}
	f.found = append(f.found, n)
}

// Step asks when it is time to. The owner calls it first of all, and when the time that Next names has come.
func (f *Finder) Step(now time.Time) {
	f.packets = f.greeter.again(f.packets, now)
	if now.Before(f.helloAt) {
		return
	}
	f.wait = longer(f.wait)
	f.helloAt = now.Add(f.wait)
	f.packets = append(f.packets, Packet{To: f.group, Data: f.greeter.hello.Append(nil)})
}

// Next returns when Step has something to do.
func (f *Finder) Next() time.Time { return f.greeter.next(f.helloAt) }

// Packets returns the control datagrams to be sent and forgets them.
func (f *Finder) Packets() []Packet {
	out := f.packets
	f.packets = nil
	return out
}

// Found returns the images found so far, by name, the newest revision first, then by server.
func (f *Finder) Found() []Found {
	out := slices.Clone(f.found)
	slices.SortFunc(out, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.Descriptor.Name, b.Descriptor.Name),
			cmp.Compare(b.Descriptor.Revision, a.Descriptor.Revision),
			cmp.Compare(a.Server, b.Server), a.Addr.Compare(b.Addr))
	})
	return out
}

// Servers returns the addresses and ids of the servers heard, whatever they offer.
func (f *Finder) Servers() map[netip.AddrPort]uint16 { return f.servers }
