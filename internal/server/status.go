package server

import (
	"net"
	"net/netip"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/seal"
	"github.com/dnbd/dnbd/internal/wire"
	"github.com/dnbd/dnbd/nbd"
)

// Status is what a server is doing.
type Status struct {
	ID     uint16
	Group  netip.AddrPort
	Images []ImageStatus
	Links  []LinkStatus
	Keys   []string // ids of the group's, the one first that seals
	NBD    NBDStatus
}

// NBDStatus is what is exported over NBD.
type NBDStatus struct {
	Addrs  []net.Addr // of the listeners
	Client bool       // there is the one client that was connected already
	Stats  nbd.Stats
}

// ImageStatus is an image that is or was offered.
type ImageStatus struct {
	Descriptor image.Descriptor
	Path       string
	Withdrawn  bool
}

// LinkStatus is the server on one interface.
type LinkStatus struct {
	Interface string
	Addr      netip.AddrPort
	Stats     mcast.SenderStats
	Drops     uint64 // requests that the kernel dropped
	Unopened  seal.Stats
}

// Status returns what the server is doing now. It may be called while Run runs.
func (s *Server) Status() Status {
	st := Status{ID: s.id, Group: s.cfg.Group, Keys: s.cfg.Keys.Names()}
	s.mu.Lock()
	for _, e := range s.exports {
		st.Images = append(st.Images, ImageStatus{
			Descriptor: e.image.Descriptor(), Path: e.image.Path(), Withdrawn: e.state == wire.ImageWithdrawn,
		})
	}
	s.mu.Unlock()
	for _, l := range s.links {
		st.Links = append(st.Links, LinkStatus{
			Interface: l.iface.Name, Addr: l.control.LocalAddr(), Stats: l.stats(), Drops: l.control.Drops() + l.group.Drops(),
			Unopened: l.opener.Stats(),
		})
	}
	for _, l := range s.cfg.NBD.Listeners {
		st.NBD.Addrs = append(st.NBD.Addrs, l.Addr())
	}
	if s.nbd != nil {
		st.NBD.Stats = s.nbd.Stats()
	}
	return st
}
