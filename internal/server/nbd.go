package server

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/wire"
	"github.com/dnbd/dnbd/nbd"
)

// NBD says how a server exports over NBD.
type NBD struct {
	// Listeners are where. They are the Server's to close. Without any nothing is exported.
	Listeners []net.Listener
	// Client, if it is not nil, is connected already. It is the Server's to close, and Run returns when it has left.
	Client net.Conn
	// Wrap, if it is not nil, may change how an image is exported and put layers around its device. It is called once for each; the
	// function that it returns is called when the server ends, before the image is closed.
	Wrap func(nbd.Export) (nbd.Export, func() error, error)
	// Port is the TCP port that clients of the group are told; 0 to tell none.
	Port uint16
	// ServerConfig has the limits, and as its Exports what is exported beside the images.
	nbd.ServerConfig
}

// Close closes the sockets, where they are not a Server's.
func (n *NBD) Close() {
	for _, l := range n.Listeners {
		_ = l.Close() // nobody was accepted
	}
	if n.Client != nil {
		_ = n.Client.Close() // nothing was said to it
	}
}

// serveNBD serves the listeners on goroutines of wg until ctx ends. It calls end when the client has left that was there at the
// beginning.
func (s *Server) serveNBD(ctx context.Context, wg *sync.WaitGroup, end context.CancelFunc) {
	if client := s.cfg.NBD.Client; client != nil {
		wg.Go(func() {
			defer end()
			if err := s.nbd.ServeConn(ctx, client); err != nil {
				s.cfg.Log.Warn("NBD client lost", "client", client.RemoteAddr(), "err", err)
			}
		})
	}
	for _, l := range s.cfg.NBD.Listeners {
		wg.Go(func() {
			if err := s.nbd.Serve(ctx, l); err != nil {
				s.cfg.Log.Error("NBD stops", "address", l.Addr(), "error", err)
			}
		})
	}
}

// HashContext is the metadata context that tells the first 64 bits of the hash of each block: two servers can be compared by it without
// moving data.
const HashContext = "dnbd:hash"

// prepareNBD fills in how e is exported.
func (s *Server) prepareNBD(e *export) {
	d, g := e.image.Descriptor(), e.image.Geometry()
	e.nbd = nbd.Export{
		Name: d.Name, Device: e.image, BlockSize: uint32(d.BlockSize),
		Contexts: []nbd.Context{{Name: HashContext, Wide: true, Status: func(_ context.Context, off, n int64, yield func(int64, uint64) bool) error {
			for end := off + n; off < end; {
				number := uint32(off / int64(g.BlockSize()))
				next := g.Offset(number) + int64(g.Len(number))
				h, _ := e.image.Tree().Hash(number)
				if !yield(next-off, binary.BigEndian.Uint64(h[:])) {
					break
				}
				off = next
			}
			return nil
		}}},
	}
	if s.nbd == nil || s.cfg.NBD.Wrap == nil {
		return
	}
	x, release, err := s.cfg.NBD.Wrap(e.nbd)
	if err != nil {
		s.cfg.Log.Error("export over NBD without layers", "image", d.Name, "error", err)
		return
	}
	e.nbd, e.release = x, release
}

// export tells the NBD server what there is now: of each name the image that was added last, unless it is withdrawn. A client that
// chose an image before keeps it, and its reads fail where the file is not what was hashed.
func (s *Server) export() {
	if s.nbd == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		if err := s.nbd.SetExports(nil); err != nil {
			s.cfg.Log.Error("export no more over NBD", "error", err)
		}
		return
	}
	list := slices.Clone(s.cfg.NBD.Exports)
	for i, e := range s.exports {
		newer := slices.ContainsFunc(s.exports[i+1:], func(other *export) bool { return other.nbd.Name == e.nbd.Name })
		if !newer && e.state == wire.ImageServed {
			list = append(list, e.nbd)
		}
	}
	// Clients of the group, where its data does not reach them, read an image by its id, with its tree. Those that cannot ask the group
	// are told here what there is. Neither gives away without TLS what a group with a key seals.
	group := len(s.links) > 0 && (s.cfg.Keys == nil || s.cfg.NBD.TLS != nil)
	if group {
		list = append(list, nbd.Export{Name: image.OffersExport, Device: s.offers(), Hidden: true})
	}
	for _, e := range s.exports {
		blocks := nbd.Export{
			Name: e.image.ID().ExportName(), Device: &watched{e.image.Blocks(), func(err error) { s.withdraw(e, err) }}, BlockSize: uint32(e.image.Descriptor().BlockSize), Hidden: true,
		}
		same := slices.ContainsFunc(list, func(other nbd.Export) bool { return other.Name == blocks.Name })
		if !same && group && e.state == wire.ImageServed {
			list = append(list, blocks)
		}
	}
	if err := s.nbd.SetExports(list); err != nil {
		s.cfg.Log.Error("export over NBD", "error", err)
	}
}

// watched is a device of which somebody is told when its bytes are not what was hashed.
type watched struct {
	nbd.Device
	corrupt func(error)
}

// ReadAt implements nbd.Device.
func (w *watched) ReadAt(ctx context.Context, p []byte, off int64) error {
	err := w.Device.ReadAt(ctx, p, off)
	if errors.Is(err, block.ErrCorrupt) {
		w.corrupt(err)
	}
	return err
}

// offers is what the server has, as a device: the WELCOMEs that would answer a HELLO for anything, each filled up to
// wire.MaxControlSize. It is called with mu held.
func (s *Server) offers() text {
	var served []wire.Offer
	for _, e := range s.exports {
		if e.state == wire.ImageServed {
			served = append(served, s.offer(e))
		}
	}
	parts := wire.SplitOffers(served)
	if len(parts) == 0 {
		parts = append(parts, nil)
	}
	parts = parts[:min(len(parts), 255)]
	t := make(text, len(parts)*wire.MaxControlSize)
	for i, part := range parts {
		w := wire.Welcome{Server: s.id, NBD: s.cfg.NBD.Port, Part: uint8(i), Parts: uint8(len(parts)), Offers: part}
		copy(t[i*wire.MaxControlSize:], w.Append(nil))
	}
	return t
}

// text is a few bytes as a device.
type text []byte

// Size implements nbd.Device.
func (t text) Size() int64 { return int64(len(t)) }

// ReadAt implements nbd.Device.
func (t text) ReadAt(_ context.Context, p []byte, off int64) error {
	if err := block.CheckRange(t.Size(), off, len(p)); err != nil {
		return err
	}
	copy(p, t[off:])
	return nil
}
