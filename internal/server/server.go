// Package server offers images to a group: an mcast.Sender on each interface, the sockets around it, and the readers of blocks. Beside
// the group, or without one, it exports them over NBD.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/seal"
	"github.com/dnbd/dnbd/internal/udp"
	"github.com/dnbd/dnbd/internal/wire"
	"github.com/dnbd/dnbd/nbd"
)

const (
	// probeTime is how long a server listens before it serves, for others with its id or with its images' names.
	probeTime = 300 * time.Millisecond
	// watchPeriod is the time between two looks at the files' sizes and times.
	watchPeriod = time.Second
)

// Config says how to serve.
type Config struct {
	Group      netip.AddrPort // of discovery; data groups are derived from it; invalid for none
	Interfaces []udp.Interface
	ID         uint16         // of this server, unique in the group; 0 to choose one that is free
	Allow      []netip.Prefix // networks whose clients the group's questions and requests are heard from; none for all
	Rate       uint64         // bits a second on each interface, 0 to follow the receivers' reports
	Threads    int            // readers of blocks; 0 for as many as there are processors, at least 4
	Keys       *seal.Ring     // of the group; nil for none
	Log        *slog.Logger
	// Rehash makes an image anew that changed under the server. Nil leaves it withdrawn.
	Rehash func(ctx context.Context, path string) (*image.Image, error)
	// Reopen makes an image of what a file holds now, when it is asked to look at the files again. Nil leaves the images as they are.
	Reopen func(ctx context.Context, path string) (*image.Image, error)
	// Describe is what an operator is told who asks for the server's status.
	Describe func() []byte
	NBD      NBD
}

// Server serves images to a group.
type Server struct {
	cfg     Config
	id      uint16
	coder   *mcast.Coder
	loader  *loader
	links   []*link
	nbd     *nbd.Server      // nil for none
	changed chan struct{}    // an export wants to be renewed
	reloads chan func(error) // told what became of it

	commands commands

	mu       sync.Mutex // guards what follows
	exports  []*export  // handle is the index + 1
	draining bool
}

// export is an image that is or was offered.
type export struct {
	handle  uint16
	image   *image.Image
	state   wire.ImageState
	renew   bool // to be hashed again
	nbd     nbd.Export
	release func() error // of what is around the image in nbd; nil for nothing
}

// ErrTaken: the id, or an image's name, belongs to another server of the group already.
var ErrTaken = errors.New("taken in this group")

// New opens the sockets of the group.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, coder: mcast.NewCoder(), loader: newLoader(), changed: make(chan struct{}, 1), reloads: make(chan func(error), 1)}
	if len(cfg.NBD.Listeners) > 0 || cfg.NBD.Client != nil {
		var err error
		if s.nbd, err = nbd.NewServer(cfg.NBD.ServerConfig); err != nil {
			return nil, err
		}
	}
	if !cfg.Group.IsValid() {
		return s, nil
	}
	if err := udp.CheckGroup(cfg.Group.Addr()); err != nil {
		return nil, err
	}
	for _, i := range cfg.Interfaces {
		l, err := s.listen(i)
		if err != nil {
			s.closeLinks()
			return nil, err
		}
		s.links = append(s.links, l)
	}
	return s, nil
}

// ID is the server's id. It is 0 until Run has found a free one, when none was given.
func (s *Server) ID() uint16 { return s.id }

// Prepare looks who else serves the group and settles the id. The error wraps ErrTaken when another server has the id that was
// asked for, or offers other bytes under the name and revision of one of images.
func (s *Server) Prepare(ctx context.Context, images []*image.Image) error {
	type result struct {
		found   []mcast.Found
		servers map[netip.AddrPort]uint16
		err     error
	}
	results := make([]result, len(s.links))
	var wg sync.WaitGroup
	for i, l := range s.links {
		wg.Go(func() {
			r := &results[i]
			r.found, r.servers, r.err = l.probe(ctx, probeTime)
		})
	}
	wg.Wait()
	taken := map[uint16]netip.AddrPort{}
	for _, r := range results {
		if r.err != nil {
			return r.err
		}
		for addr, id := range r.servers {
			taken[id] = addr
		}
		for _, f := range r.found {
			for _, m := range images {
				if err := conflict(m, f); err != nil {
					return err
				}
			}
		}
	}
	if s.id = s.cfg.ID; s.id != 0 {
		if addr, ok := taken[s.id]; ok {
			return fmt.Errorf("server id %d: %w: the server at %v has it; choose another with --id", s.id, ErrTaken, addr)
		}
		return nil
	}
	for s.id == 0 || taken[s.id].IsValid() {
		s.id = uint16(rand.Uint32())
	}
	return nil
}

// conflict says whether a server has other bytes under the name and revision of m.
func conflict(m *image.Image, f mcast.Found) error {
	d := m.Descriptor()
	if f.Descriptor.Name != d.Name || f.Descriptor.Revision != d.Revision || f.Descriptor.ID() == m.ID() {
		return nil
	}
	return fmt.Errorf("image %s revision %d of %s: %w: server %d at %v offers other bytes under it (id %v, this is %v); "+
		"give this one another name or revision", d.Name, d.Revision, m.Path(), ErrTaken, f.Server, f.Addr,
		f.Descriptor.ID(), m.ID())
}

// Run serves the images until ctx ends, or until the client has left that NBD names, then tells the group and closes them and the sockets. Prepare comes first.
func (s *Server) Run(ctx context.Context, images []*image.Image) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, l := range s.links {
		l.start()
	}
	for _, m := range images {
		s.add(m)
	}
	defer s.closeImages()

	threads := s.cfg.Threads
	if threads <= 0 {
		threads = max(runtime.GOMAXPROCS(0), 4)
	}
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() { s.loader.run(ctx) })
	}
	s.serveNBD(ctx, &wg, cancel)
	wg.Go(func() { s.watch(ctx) })
	wg.Go(func() { s.endDrained(ctx, cancel) })
	for _, l := range s.links {
		wg.Go(func() { l.pump(ctx) })
		wg.Go(func() { l.hear(ctx, l.control) })
		wg.Go(func() { l.hear(ctx, l.group) })
	}
	<-ctx.Done()
	for _, l := range s.links {
		l.leave()
	}
	s.closeLinks()
	wg.Wait()
	return nil
}

// Close releases the sockets of a server that is not run.
func (s *Server) Close() {
	s.closeLinks()
	s.cfg.NBD.Close()
}

func (s *Server) closeLinks() {
	for _, l := range s.links {
		l.close()
	}
}

func (s *Server) closeImages() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.exports {
		var err error
		if e.release != nil {
			err = e.release()
		}
		if err := errors.Join(err, e.image.Close()); err != nil {
			s.cfg.Log.Warn("close image", "error", err)
		}
	}
}

// add offers an image under a new handle.
func (s *Server) add(m *image.Image) {
	s.mu.Lock()
	e := &export{handle: uint16(len(s.exports) + 1), image: m}
	s.prepareNBD(e)
	s.exports = append(s.exports, e)
	s.mu.Unlock()
	for _, l := range s.links {
		l.add(e)
	}
	s.export()
}

// byHandle returns the export with a handle that a sender knows.
func (s *Server) byHandle(handle uint16) *export {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exports[handle-1]
}

// withdraw stops offering an image whose bytes are not what they were, tells the clients, and has it hashed again.
func (s *Server) withdraw(e *export, why error) {
	if !s.retract(e, true) {
		return
	}
	s.cfg.Log.Error("image withdrawn, hashing it again", "image", e.image.Descriptor().Name, "file", e.image.Path(), "reason", why)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// retract stops offering an image and tells the clients. It returns false if the image was not offered.
func (s *Server) retract(e *export, renew bool) bool {
	s.mu.Lock()
	served := e.state == wire.ImageServed
	if served {
		e.state, e.renew = wire.ImageWithdrawn, renew
	}
	s.mu.Unlock()
	if !served {
		return false
	}
	for _, l := range s.links {
		l.setState(e.handle, wire.ImageWithdrawn)
	}
	s.export()
	return true
}

// watch notices files that change, and makes changed images anew.
func (s *Server) watch(ctx context.Context) {
	tick := time.NewTicker(watchPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case done := <-s.reloads:
			done(s.reload(ctx))
		case <-tick.C:
			s.cfg.Keys.Refresh(s.cfg.Log)
		}
		for _, e := range s.snapshot() {
			if stale, err := e.image.Stale(); err != nil {
				s.withdraw(e, err)
			} else if stale {
				s.withdraw(e, errors.New("the file's size or modification time changed"))
			}
			if s.takeRenew(e) {
				s.renew(ctx, e)
			}
		}
	}
}

// snapshot returns the exports there are now.
func (s *Server) snapshot() []*export {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.exports)
}

// takeRenew says whether e is to be hashed again, once.
func (s *Server) takeRenew(e *export) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	renew := e.renew
	e.renew = false
	return renew
}

// renew hashes a withdrawn image again and offers what the file holds now.
func (s *Server) renew(ctx context.Context, e *export) {
	if s.cfg.Rehash == nil {
		return
	}
	m, err := s.cfg.Rehash(ctx, e.image.Path())
	if err != nil {
		if ctx.Err() == nil {
			s.cfg.Log.Error("image stays withdrawn", "file", e.image.Path(), "error", err)
		}
		return
	}
	d := m.Descriptor()
	s.cfg.Log.Info("image offered again", "image", d.Name, "revision", d.Revision, "id", m.ID())
	s.add(m)
}
