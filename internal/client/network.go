package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/seal"
	"github.com/dnbd/dnbd/internal/udp"
	"github.com/dnbd/dnbd/internal/wire"
)

// Network is where a client looks for servers.
type Network struct {
	Group      netip.AddrPort // of discovery; not valid with Hosts
	Interfaces []udp.Interface
	Keys       *seal.Ring // of the group; nil for none
	// Hosts, each HOST:PORT, are NBD servers that are asked in place of a group: no multicast is needed then.
	Hosts []string
	// TLS is for what is read over NBD. If it is nil TLS is used where a server of the group says that it needs it, with the authorities
	// that the system trusts. An empty ServerName stands for the server's host.
	TLS *tls.Config
	Log *slog.Logger
}

// String names group, port and interfaces, or hosts, for messages: "in group …", "from host …".
func (n Network) String() string {
	if len(n.Hosts) > 0 {
		return "from " + strings.Join(n.Hosts, ", ")
	}
	var names []string
	for _, i := range n.Interfaces {
		names = append(names, i.Name)
	}
	return fmt.Sprintf("in group %v port %d on %s", n.Group.Addr(), n.Group.Port(), strings.Join(names, ", "))
}

// sockets are a client's: for each interface one with an address of its own, which sends everything and hears the answers, and
// one for each group.
type sockets struct {
	network Network
	options udp.Options
	input   input
	sealer  *seal.Sealer
	opener  *seal.Opener // of what servers send
	readers sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	unicast []*udp.Conn
	groups  map[netip.AddrPort]*udp.Conn
	routes  map[netip.AddrPort]*udp.Conn // by server: the unicast socket that reaches it
}

// input takes in what one socket heard. It may keep none of it.
type input func(conn *udp.Conn, heard []datagram)

// datagram is one that came, opened, and the message that it was in.
type datagram struct {
	*udp.Message
	data []byte
}

// maxRoutes bounds what strangers can make us remember.
const maxRoutes = 256

// listen opens the sockets for discovery; with hosts in place of a group there are none. Everything that arrives goes to input, which is
// called by one goroutine for each socket.
func listen(n Network, input input) (*sockets, error) {
	s := &sockets{
		network: n, options: udp.OptionsFromEnv(), input: input,
		sealer: n.Keys.NewSealer(seal.Client), opener: n.Keys.NewOpener(seal.Server),
		groups: map[netip.AddrPort]*udp.Conn{}, routes: map[netip.AddrPort]*udp.Conn{},
	}
	s.options.Log = n.Log
	if len(n.Hosts) > 0 {
		return s, nil
	}
	if err := udp.CheckGroup(n.Group.Addr()); err != nil {
		return nil, err
	}
	for _, i := range n.Interfaces {
		conn, err := udp.ListenUnicast(i, 0, s.options)
		if err != nil {
			s.close()
			return nil, err
		}
		s.unicast = append(s.unicast, conn)
		s.read(conn)
	}
	if err := s.join(n.Group); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// join starts to hear a group, if that is not so already.
func (s *sockets) join(group netip.AddrPort) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups[group] != nil || s.closed {
		return nil
	}
	conn, err := udp.ListenGroup(group, s.network.Interfaces, s.options)
	if err != nil {
		return err
	}
	s.groups[group] = conn
	s.read(conn)
	return nil
}

// leave ends to hear the data groups: all but the one of discovery.
func (s *sockets) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for group, conn := range s.groups {
		if group != s.network.Group {
			conn.Close()
			delete(s.groups, group)
		}
	}
}

// rejoin leaves the groups and joins them again, so that switches hear of it: a lost report, or a switch that forgot, cuts a host off
// in silence.
func (s *sockets) rejoin() error {
	s.mu.Lock()
	old := s.groups
	s.groups = map[netip.AddrPort]*udp.Conn{}
	s.mu.Unlock()
	var errs []error
	for group, conn := range old {
		conn.Close()
		errs = append(errs, s.join(group))
	}
	return errors.Join(errs...)
}

func (s *sockets) read(conn *udp.Conn) {
	s.readers.Go(func() {
		batch := udp.NewBatch()
		var train [][]byte
		var heard []datagram
		for {
			n, err := conn.Read(batch...)
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					s.network.Log.Error("receive", "error", err)
				}
				return
			}
			heard = heard[:0]
			for _, m := range batch[:n] {
				train = m.Segments(train[:0])
				for _, b := range s.opener.Open(train) {
					heard = append(heard, datagram{m, b})
				}
			}
			if len(heard) > 0 {
				s.input(conn, heard)
			}
		}
	})
}

// learn remembers by which socket a server is reached.
func (s *sockets) learn(conn *udp.Conn, m *udp.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.routes[m.From] != nil || len(s.routes) >= maxRoutes {
		return
	}
	for n, u := range s.unicast {
		if u == conn || m.IfIndex == s.network.Interfaces[n].Index {
			s.routes[m.From] = u
			return
		}
	}
}

// send sends control datagrams. One that finds no room is lost, as the network may lose any.
func (s *sockets) send(packets []mcast.Packet) {
	for _, p := range packets {
		data := s.sealer.Control(p.Data)
		s.mu.Lock()
		to := s.unicast
		if !p.To.Addr().IsMulticast() {
			if u := s.routes[p.To]; u != nil {
				to = []*udp.Conn{u}
			}
		}
		s.mu.Unlock()
		for _, u := range to {
			if err := u.Send(p.To, data); err != nil && !errors.Is(err, net.ErrClosed) {
				s.network.Log.Debug("send", "to", p.To, "error", err)
			}
		}
	}
}

// drops is how many datagrams the kernel dropped for want of buffer.
func (s *sockets) drops() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n uint64
	for _, u := range s.unicast {
		n += u.Drops()
	}
	for _, g := range s.groups {
		n += g.Drops()
	}
	return n
}

// close closes the sockets and waits for their readers.
func (s *sockets) close() {
	s.mu.Lock()
	s.closed = true
	for _, u := range s.unicast {
		u.Close()
	}
	for _, g := range s.groups {
		g.Close()
	}
	s.mu.Unlock()
	s.readers.Wait()
}

// Discovery is what was heard so far while looking for images.
type Discovery struct {
	Found    []mcast.Found
	Servers  map[netip.AddrPort]uint16 // all that were heard, by address, with their ids
	Unopened seal.Stats                // what was heard and not let in
	// Failed says of those of Network.Hosts that did not answer why, and Complete is that all were asked.
	Failed   map[string]error
	Complete bool
}

// Find asks the group for images by the given Hello, whose nonce it sets, until enough says that what was found is enough. It
// calls enough after each answer and each second. When ctx ends first, what was found is returned with ctx's error. Hosts in place of a
// group tell all that they have, whatever ask says.
func Find(ctx context.Context, n Network, ask wire.Hello, enough func(Discovery) bool) (Discovery, error) {
	if len(n.Hosts) > 0 {
		return findAt(ctx, n, enough)
	}
	ask.Nonce = nonce()
	var mu sync.Mutex
	f := mcast.NewFinder(time.Now(), n.Group, ask)
	news := make(chan struct{}, 1)
	var s *sockets
	ready := make(chan struct{})
	s, err := listen(n, func(conn *udp.Conn, heard []datagram) {
		<-ready
		mu.Lock()
		for _, d := range heard {
			s.learn(conn, d.Message)
			f.Input(time.Now(), d.From, d.data)
		}
		packets := f.Packets()
		mu.Unlock()
		s.send(packets)
		select {
		case news <- struct{}{}:
		default:
		}
	})
	close(ready)
	if err != nil {
		return Discovery{}, err
	}
	defer s.close()

	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		mu.Lock()
		f.Step(time.Now())
		packets, next := f.Packets(), f.Next()
		d := Discovery{Found: f.Found(), Servers: maps.Clone(f.Servers()), Unopened: s.opener.Stats()}
		mu.Unlock()
		s.send(packets)
		if enough(d) {
			return d, nil
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-news:
		case <-second.C:
			n.Keys.Refresh(n.Log)
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return d, fmt.Errorf("look for images %v: %w", n, ctx.Err())
		}
		timer.Stop()
	}
}

func nonce() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

// seed is one for random numbers that nobody can guess.
func seed() (s [32]byte) {
	rand.Read(s[:])
	return s
}
