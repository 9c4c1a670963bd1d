package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/listen"
	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/seal"
	"github.com/dnbd/dnbd/internal/udp"
	"github.com/dnbd/dnbd/internal/wire"
	"github.com/dnbd/dnbd/nbd"
)

const (
	// dataBuffer is the write buffer for data, in bytes: what lies in it cannot be overtaken by a demand any more, so it is
	// small; 256 KiB hold four trains, enough to keep a link busy while the sender is off the processor.
	dataBuffer = 256 << 10
	// maxPayload keeps symbols within a jumbo frame even where an interface (loopback) would take more.
	maxPayload = 9000 - 28
)

// link is the server on one interface: a sender with its sockets.
//
// Data leaves by a socket of its own, so that a full send buffer holds up neither requests nor answers.
type link struct {
	iface   udp.Interface
	server  *Server
	log     *slog.Logger
	control *udp.Conn // requests in, answers and announcements out
	group   *udp.Conn // questions to the group
	data    *udp.Conn // DATA out
	wake    chan struct{}
	drained chan struct{} // closed when nothing is left to be sent
	opener  *seal.Opener  // of what clients send

	// What seals control datagrams, and DATA: they go two ways, and one would overtake the other.
	sealer, dataSealer *seal.Sealer

	mu     sync.Mutex // guards sender; nothing blocks while it is held
	sender *mcast.Sender
}

// listen opens the link's sockets. A taken port is no error: clients learn the address from the answers.
func (s *Server) listen(i udp.Interface) (*link, error) {
	o := udp.OptionsFromEnv()
	o.Log = s.cfg.Log
	l := &link{iface: i, server: s, log: s.cfg.Log.With("interface", i.Name), wake: make(chan struct{}, 1), drained: make(chan struct{})}
	l.opener, l.sealer, l.dataSealer = s.cfg.Keys.NewOpener(seal.Client), s.cfg.Keys.NewSealer(seal.Server), s.cfg.Keys.NewSealer(seal.Server)
	var err error
	if l.control, err = udp.ListenUnicast(i, s.cfg.Group.Port(), o); err != nil {
		why := err
		if l.control, err = udp.ListenUnicast(i, 0, o); err != nil {
			return nil, err
		}
		l.log.Info("using another port for requests", "port", l.control.LocalAddr().Port(), "reason", why)
	}
	data := o
	data.WriteBuffer = dataBuffer
	if l.data, err = udp.ListenUnicast(i, 0, data); err != nil {
		l.close()
		return nil, err
	}
	if l.group, err = udp.ListenGroup(s.cfg.Group, []udp.Interface{i}, o); err != nil {
		l.close()
		return nil, err
	}
	// Where data goes to the discovery group itself, its own trains are the last thing a server must spend time on.
	if err := l.group.Ignore(l.data.LocalAddr()); err != nil {
		l.log.Debug("hearing our own data", "error", err)
	}
	return l, nil
}

// start gives the link its sender, once the server's id is known.
func (l *link) start() {
	overhead := 28
	if l.iface.Addr.Is6() {
		overhead = 48
	}
	var secret [32]byte
	rand.Read(secret[:])
	var epoch [4]byte
	rand.Read(epoch[:])
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sender = mcast.NewSender(mcast.SenderConfig{
		Server:     l.server.id,
		Epoch:      binary.BigEndian.Uint32(epoch[:]),
		Secret:     secret,
		Group:      l.server.cfg.Group,
		NBD:        l.server.cfg.NBD.Port,
		TLS:        l.server.cfg.NBD.TLSMode == nbd.TLSRequired || l.server.cfg.NBD.TLS != nil && l.server.cfg.Keys != nil,
		MaxPayload: min(l.iface.MTU-overhead, maxPayload) - l.dataSealer.Overhead(),
		Overhead:   l.dataSealer.Overhead(),
		Rate:       l.server.cfg.Rate,
		Coder:      l.server.coder,
		Release:    l.server.loader.release,
	})
}

// add offers an export on this link.
func (l *link) add(e *export) {
	g := e.image.Geometry()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sender.Add(mcast.Export{ID: e.image.ID(), Blocks: g.Total(), Length: g.Len, Offer: l.server.offer(e)})
	l.kick()
}

// offer is how the server describes an export to clients.
func (s *Server) offer(e *export) wire.Offer {
	d := e.image.Descriptor()
	return wire.Offer{
		Handle: e.handle, Algorithm: image.AlgorithmBLAKE3, BlockLog: uint8(bits.TrailingZeros(uint(d.BlockSize))),
		Size: uint64(d.Size), Revision: d.Revision, Created: d.Created.Unix(), Root: d.Root, Name: d.Name,
		Group:     dataGroup(s.cfg.Group, s.cfg.Keys.Blind(e.image.ID())),
		Signature: e.image.Signature(),
	}
}

func (l *link) setState(handle uint16, state wire.ImageState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sender.SetState(handle, state)
	l.kick()
}

func (l *link) stats() mcast.SenderStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sender == nil {
		return mcast.SenderStats{}
	}
	return l.sender.Stats()
}

// kick makes the pump look again.
func (l *link) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// hear takes in what arrives at one of the sockets until it is closed.
func (l *link) hear(ctx context.Context, conn *udp.Conn) {
	type datagram struct {
		*udp.Message
		data []byte // opened
	}
	var heard []datagram
	var train [][]byte
	for batch := udp.NewBatch(); ; {
		n, err := conn.Read(batch...)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				l.log.Error("receive", "error", err)
			}
			return
		}
		heard = heard[:0]
		for _, m := range batch[:n] {
			if len(l.server.cfg.Allow) > 0 && !listen.AllowedIP(l.server.cfg.Allow, m.From.Addr()) {
				continue // to others there is no server here
			}
			train = m.Segments(train[:0])
			for _, b := range l.opener.Open(train) {
				heard = append(heard, datagram{m, b})
			}
		}
		if len(heard) == 0 {
			continue
		}
		now := time.Now()
		var commands []mcast.Packet
		l.mu.Lock()
		for _, d := range heard {
			if t, _ := wire.TypeOf(d.data); t == wire.TypeCommand {
				commands = append(commands, mcast.Packet{To: d.From, Data: bytes.Clone(d.data)}) // done without the lock, below
				continue
			}
			l.sender.InputLate(now, d.Arrived, d.From, d.data)
		}
		packets, loads := l.sender.Packets(), l.sender.Loads()
		l.mu.Unlock()
		l.send(l.sealer, packets)
		l.server.loader.queue(ctx, l, loads)
		l.kick()
		for _, c := range commands {
			l.command(c.To, c.Data)
		}
	}
}

// send sends control datagrams. One that finds no room is lost, as the network may lose any; its receiver asks again.
func (l *link) send(s *seal.Sealer, packets []mcast.Packet) {
	for _, p := range packets {
		if err := l.control.Send(p.To, s.Control(p.Data)); err != nil && !errors.Is(err, net.ErrClosed) {
			l.log.Debug("send", "to", p.To, "error", err)
		}
	}
}

// pump sends what the sender has to send, when it has, until ctx ends.
func (l *link) pump(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var train udp.Segments
	sealed := make([]byte, 0, udp.MessageSize) // more than the datagrams of a burst take
	drained := sync.OnceFunc(func() { close(l.drained) })
	for ctx.Err() == nil {
		now := time.Now()
		l.mu.Lock()
		l.sender.Tick(now)
		burst := l.sender.NextBurst(now)
		packets, loads := l.sender.Packets(), l.sender.Loads()
		var next time.Time
		if burst == nil {
			next = l.sender.Next(now)
			if l.sender.Drained() {
				drained()
			}
		}
		l.mu.Unlock()

		l.send(l.sealer, packets)
		l.server.loader.queue(ctx, l, loads)
		if burst != nil {
			train.Reset()
			sealed = sealed[:0]
			for i, header := range burst.Headers {
				if l.dataSealer == nil {
					train.Add(header, burst.Payloads[i])
					continue
				}
				from := len(sealed)
				sealed = l.dataSealer.Seal(sealed, header, burst.Payloads[i])
				train.Add(nil, sealed[from:])
			}
			if err := l.data.SendSegments(burst.To, &train); err != nil && ctx.Err() == nil {
				l.log.Warn("send data", "to", burst.To, "error", err)
			}
			continue
		}
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// load reads a block for the sender.
func (l *link) load(load mcast.Load) {
	e := l.server.byHandle(load.Handle)
	buf := l.server.loader.buffer(e.image.Geometry().Len(load.Block))
	n, err := e.image.ReadBlock(load.Block, buf)
	if err != nil {
		l.server.loader.release(buf)
		buf = nil
		if errors.Is(err, block.ErrCorrupt) {
			l.server.withdraw(e, err)
		} else {
			l.log.Error("read block", "error", err)
		}
	}
	l.mu.Lock()
	l.sender.Loaded(load, buf[:n], err)
	l.mu.Unlock()
	l.kick()
}

// drain makes the link take no more requests.
func (l *link) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sender.Drain()
	l.kick()
}

// leave tells the group that the server stops.
func (l *link) leave() {
	l.mu.Lock()
	l.sender.Leave()
	packets := l.sender.Packets()
	l.mu.Unlock()
	l.send(l.sealer, packets)
}

func (l *link) close() {
	for _, c := range []*udp.Conn{l.control, l.group, l.data} {
		if c != nil {
			c.Close()
		}
	}
}

// probe asks the group who is there, on the link's own sockets before it starts to serve, and returns what it heard.
func (l *link) probe(ctx context.Context, d time.Duration) (found []mcast.Found, servers map[netip.AddrPort]uint16, err error) {
	var nonce [8]byte
	rand.Read(nonce[:])
	f := mcast.NewFinder(time.Now(), l.server.cfg.Group, wire.Hello{Nonce: binary.BigEndian.Uint64(nonce[:])})
	end := time.Now().Add(d)
	sealer, opener := l.server.cfg.Keys.NewSealer(seal.Client), l.server.cfg.Keys.NewOpener(seal.Server)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, conn := range []*udp.Conn{l.control, l.group} {
		if err := conn.SetReadDeadline(end); err != nil {
			return nil, nil, fmt.Errorf("listen to the group: %w", err)
		}
		wg.Go(func() {
			m := udp.NewMessage()
			for {
				if _, err := conn.Read(m); err != nil {
					return
				}
				mu.Lock()
				for _, b := range opener.Open(m.Segments(nil)) {
					f.Input(time.Now(), m.From, b)
				}
				l.send(sealer, f.Packets())
				mu.Unlock()
			}
		})
	}
	for now := time.Now(); now.Before(end) && ctx.Err() == nil; now = time.Now() {
		mu.Lock()
		f.Step(now)
		l.send(sealer, f.Packets())
		next := f.Next()
		mu.Unlock()
		if next.After(end) {
			next = end
		}
		select {
		case <-ctx.Done():
			l.control.SetReadDeadline(time.Now())
			l.group.SetReadDeadline(time.Now())
		case <-time.After(time.Until(next)):
		}
	}
	wg.Wait()
	for _, conn := range []*udp.Conn{l.control, l.group} {
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			return nil, nil, fmt.Errorf("listen to the group: %w", err)
		}
	}
	if st := opener.Stats(); st.Foreign+st.Plain > 0 {
		l.log.Warn("another server of this group has another key, or only one of the two has a key: they will not share clients")
	}
	return f.Found(), f.Servers(), ctx.Err()
}
