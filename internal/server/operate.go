package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// lingerTime is how long a server that was told to drain stays when it has, so that who told it can be answered again.
const lingerTime = 500 * time.Millisecond

// Reload looks at the group's keys and at the images' files again, and calls done with what is wrong with these. An image whose file was
// replaced by another is withdrawn, and what the file holds now is offered; one that an operator had withdrawn is offered again. It
// returns false, and does nothing, if another waits to be done already.
func (s *Server) Reload(done func(error)) bool {
	select {
	case s.reloads <- done:
		return true
	default:
		return false
	}
}

// reload is Reload, on the goroutine that renews images.
func (s *Server) reload(ctx context.Context) error {
	s.cfg.Log.Info("looking at the keys and the files again")
	s.cfg.Keys.Refresh(s.cfg.Log)
	if s.cfg.Reopen == nil {
		return nil
	}
	latest := map[string]*export{}
	for _, e := range s.snapshot() {
		latest[e.image.Path()] = e
	}
	var errs []error
	for _, e := range s.snapshot() {
		if latest[e.image.Path()] == e {
			errs = append(errs, s.reopen(ctx, e))
		}
	}
	return errors.Join(errs...)
}

// reopen offers what the file of an image holds now, if that is not what is offered.
func (s *Server) reopen(ctx context.Context, e *export) error {
	m, err := s.cfg.Reopen(ctx, e.image.Path())
	if err != nil {
		return err
	}
	d, was := m.Descriptor(), e.image.Descriptor()
	stale, err := e.image.Stale()
	if err == nil && !stale && d.ID() == was.ID() && d.Name == was.Name && d.Revision == was.Revision {
		s.restore(e)
		return m.Close()
	}
	s.retract(e, false)
	s.cfg.Log.Info("image offered", "image", d.Name, "revision", d.Revision, "id", m.ID())
	s.add(m)
	return nil
}

// restore offers an image again.
func (s *Server) restore(e *export) {
	s.mu.Lock()
	withdrawn := e.state == wire.ImageWithdrawn
	e.state = wire.ImageServed
	s.mu.Unlock()
	if !withdrawn {
		return
	}
	s.cfg.Log.Info("image offered again", "image", e.image.Descriptor().Name, "revision", e.image.Descriptor().Revision)
	for _, l := range s.links {
		l.setState(e.handle, wire.ImageServed)
	}
	s.export()
}

// Withdraw stops offering the images of a name, or NAME@REVISION alone, until Reload.
func (s *Server) Withdraw(what string) error {
	name, revision, only := strings.Cut(what, "@")
	var names []string
	withdrawn := false
	for _, e := range s.snapshot() {
		d := e.image.Descriptor()
		if d.Name == name && (!only || strconv.FormatUint(d.Revision, 10) == revision) && s.retract(e, false) {
			s.cfg.Log.Warn("image withdrawn, as an operator asked", "image", d.Name, "revision", d.Revision)
			withdrawn = true
		}
		names = append(names, fmt.Sprintf("%s@%d", d.Name, d.Revision))
	}
	if !withdrawn {
		return fmt.Errorf("withdraw %s: no such image is offered; there are: %s", what, strings.Join(slices.Compact(names), ", "))
	}
	return nil
}

// Drain makes the server take no new requests, and lets Run return when it has sent what is queued. Clients are told and go on from
// others.
func (s *Server) Drain() {
	s.mu.Lock()
	first := !s.draining
	s.draining = true
	s.mu.Unlock()
	if !first {
		return
	}
	s.cfg.Log.Info("draining: no new requests are taken, and when the queue is empty the server ends")
	s.export()
	for _, l := range s.links {
		l.drain()
	}
}

// endDrained ends the server when all links have drained.
func (s *Server) endDrained(ctx context.Context, end func()) {
	for _, l := range s.links {
		select {
		case <-l.drained:
		case <-ctx.Done():
			return
		}
	}
	if len(s.links) == 0 {
		return // nobody can ask it to
	}
	select {
	case <-time.After(lingerTime):
	case <-ctx.Done():
	}
	end()
}
