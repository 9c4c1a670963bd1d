package server

import (
	"context"
	"net"
	"slices"
	"sync"

	"github.com/dnbd/dnbd/internal/wire"
	"github.com/dnbd/dnbd/nbd"
)

// NBD says how a server exports over NBD.
type NBD struct {
	// Listeners are where. They are the Server's to close. Without any nothing is exported.
	Listeners []net.Listener
	// Port is the TCP port that clients of the group are told; 0 to tell none.
	Port uint16
	// ServerConfig has the limits, and as its Exports what is exported beside the images.
	nbd.ServerConfig
}

// serveNBD serves the listeners on goroutines of wg until ctx ends.
func (s *Server) serveNBD(ctx context.Context, wg *sync.WaitGroup) {
	for _, l := range s.cfg.NBD.Listeners {
		wg.Go(func() {
			if err := s.nbd.Serve(ctx, l); err != nil {
				s.cfg.Log.Error("NBD stops", "address", l.Addr(), "error", err)
			}
		})
	}
}

// export tells the NBD server what there is now: of each name the image that was added last, unless it is withdrawn. A client that
// chose an image before keeps it, and its reads fail where the file is not what was hashed.
func (s *Server) export() {
	if s.nbd == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Clone(s.cfg.NBD.Exports)
	for i, e := range s.exports {
		d := e.image.Descriptor()
		newer := slices.ContainsFunc(s.exports[i+1:], func(other *export) bool { return other.image.Descriptor().Name == d.Name })
		if newer || e.state != wire.ImageServed {
			continue
		}
		list = append(list, nbd.Export{Name: d.Name, Device: e.image, BlockSize: uint32(d.BlockSize)})
	}
	if err := s.nbd.SetExports(list); err != nil {
		s.cfg.Log.Error("export over NBD", "error", err)
	}
}
