// Package querier asks the hosts of a network which groups they are members of, as an IGMPv3 or MLDv2 querier does (RFC 9776 section 6,
// RFC 9777 section 7). A switch that snoops sends a group only to ports from which that was answered, and forgets answers that are not
// repeated: in a network where nobody asks it sends groups nowhere, or everywhere.
//
// It asks general queries only. When a host leaves a group a router asks at once who else is a member, for which it keeps a table of all
// memberships; here there is none, and a switch notices that answers are missing, after two intervals.
package querier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// retry is the pause after the socket could not be used, as where the interface is down.
const retry = time.Second

// Config says where to ask, and how often.
type Config struct {
	Interface string
	// Addr is the interface's address that queries come from: of IPv4 to ask by IGMP, of IPv6 by MLD, which takes the interface's link-local
	// address in its place.
	Addr     netip.Addr
	Interval time.Duration // between queries, in whole seconds from MinInterval to MaxInterval
	Log      *slog.Logger
}

// Querier asks on one interface, as long as no other querier with a lower address does.
type Querier struct {
	log      *slog.Logger
	protocol string
	socket   socket
	failing  bool // the socket did not work the last time

	mu      sync.Mutex // guards machine
	machine machine
}

// socket sends general queries on an interface, and hears what others send.
type socket interface {
	query() error
	// hear waits for the next packet, until the deadline. It returns false for one that is no query.
	hear() (from netip.Addr, said timing, ok bool, err error)
	SetReadDeadline(time.Time) error
	Close() error
}

// Status is who asks.
type Status struct {
	Protocol string     // IGMP or MLD
	Other    netip.Addr // of the querier that asks in our place; not valid if we do
}

// Open opens the socket, which takes root or CAP_NET_RAW.
func Open(cfg Config) (*Querier, error) {
	if cfg.Interval < MinInterval || cfg.Interval > MaxInterval || cfg.Interval%time.Second != 0 {
		return nil, fmt.Errorf("ask for members every %v: it is whole seconds, from %v to %v", cfg.Interval, MinInterval, MaxInterval)
	}
	protocol, listen := "IGMP", listenIGMP
	if cfg.Addr.Is6() {
		protocol, listen = "MLD", listenMLD
		var err error
		if cfg.Addr, err = linkLocal(cfg.Interface); err != nil {
			return nil, fmt.Errorf("ask for members on %s by MLD: %w", cfg.Interface, err)
		}
	}
	t := newTiming(cfg.Interval)
	s, err := listen(cfg.Interface, cfg.Addr, t)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("%w: it needs root or CAP_NET_RAW", err)
		}
		return nil, fmt.Errorf("ask for members on %s by %s: %w", cfg.Interface, protocol, err)
	}
	return &Querier{
		log: cfg.Log.With("interface", cfg.Interface), protocol: protocol, socket: s,
		machine: newMachine(time.Now(), cfg.Addr.WithZone(""), t),
	}, nil
}

// linkLocal returns an interface's link-local IPv6 address.
func linkLocal(name string) (netip.Addr, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Addr{}, err
	}
	addrs, err := i.Addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			return p.Addr().WithZone(name), nil
		}
	}
	return netip.Addr{}, errors.New("it has no link-local IPv6 address, which queries come from")
}

// Status returns who asks now.
func (q *Querier) Status() Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Status{q.protocol, q.machine.other}
}

// Run asks until ctx ends, and closes the socket.
func (q *Querier) Run(ctx context.Context) {
	defer q.Close()
	defer context.AfterFunc(ctx, q.Close)()
	q.log.Info("asking hosts for their memberships, as a querier", "protocol", q.protocol, "interval", q.machine.interval)
	for ctx.Err() == nil {
		if err := q.turn(); err != nil && ctx.Err() == nil {
			level := slog.LevelWarn
			if q.failing {
				level = slog.LevelDebug
			}
			q.failing = true
			q.log.Log(ctx, level, "ask hosts for their memberships", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(retry):
			}
		}
	}
}

// turn asks if it is time, and takes in one packet, if one comes before it is time again.
func (q *Querier) turn() error {
	q.mu.Lock()
	before := q.machine.other
	ask := q.machine.step(time.Now())
	next := q.machine.next
	q.mu.Unlock()
	if ask {
		if before.IsValid() {
			q.log.Info("the other querier has stopped: asking again", "other", before)
		}
		if err := q.socket.query(); err != nil {
			q.mu.Lock()
			q.machine.unsent(time.Now())
			q.mu.Unlock()
			return err
		}
		q.failing = false
	}
	if err := q.socket.SetReadDeadline(next); err != nil {
		return err
	}
	from, said, ok, err := q.socket.hear()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil || !ok {
		return err
	}
	q.mu.Lock()
	before = q.machine.other
	q.machine.heard(time.Now(), from, said)
	now := q.machine.other
	q.mu.Unlock()
	if now.IsValid() && !before.IsValid() {
		q.log.Info("another querier asks here, whose address is lower: silent until it stops", "other", now)
	}
	return nil
}

// Close closes the socket of a querier that is not run.
func (q *Querier) Close() { _ = q.socket.Close() } // nothing is in it that could be lost
