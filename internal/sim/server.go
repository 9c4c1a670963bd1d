package sim

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/seal"
	"github.com/dnbd/dnbd/internal/wire"
)

// Group is the discovery group of simulated networks.
var Group = netip.MustParseAddrPort("239.0.0.1:10810")

// portQueue is how much a server lets wait in its port before it pauses, as a socket's send buffer makes it.
const portQueue = time.Millisecond

// Server is a Sender with a disk and a port.
type Server struct {
	*Node
	Sender *mcast.Sender
	// LoadTime is how long the disk takes for a block.
	LoadTime time.Duration
	// LoadErr, if set, is the error that reading a block gives.
	LoadErr func(block uint32) error

	// Skew is how far its clock is ahead. It never goes back.
	Skew time.Duration
	// Cost, if set, is how long the machine's own work took, in real time.
	Cost *time.Duration

	seals   seals
	image   *Image
	stopped bool
	held    [][]byte     // datagrams that arrived while stopped
	read    []mcast.Load // blocks that the disk brought while stopped
	from    []netip.AddrPort
	wakeAt  time.Time
}

// NewServer starts a server of an image. Its epoch follows from the world's seed.
func (w *World) NewServer(id uint16, image *Image, rate uint64, link Link) *Server {
	s := &Server{image: image, LoadTime: 100 * time.Microsecond, seals: w.seals(seal.Server, seal.Client)}
	s.Node = w.NewNode(link, s.seals.opened(s.receive))
	s.Start(id, rate)
	s.Join(Group)
	return s
}

// Start gives the server a new life: a new epoch, and no memory of the one before.
func (s *Server) Start(id uint16, rate uint64) {
	s.Link.Down, s.stopped = false, false
	s.held, s.from, s.read = nil, nil, nil
	s.Sender = mcast.NewSender(mcast.SenderConfig{
		Server: id, Epoch: s.world.Rand.Uint32(), Secret: [32]byte{byte(id)}, Group: Group,
		MaxPayload: maxPayload, Rate: rate, Coder: s.image.coder,
	})
	s.Sender.Add(s.image.export())
	s.world.After(0, s.pump)
}

// Kill takes the server off the network with all it knows.
func (s *Server) Kill() { s.Link.Down, s.stopped = true, true }

// Stop freezes the server, as SIGSTOP does: it hears and says nothing, and its socket's buffer fills.
func (s *Server) Stop() { s.stopped = true }

// Continue thaws a stopped server.
func (s *Server) Continue() {
	s.stopped = false
	for _, l := range s.read {
		s.loaded(l)
	}
	for i, b := range s.held {
		s.Sender.Input(s.now(), s.from[i], b)
	}
	s.held, s.from, s.read = nil, nil, nil
	s.pump()
}

// loaded hands the machine a block that it asked for.
func (s *Server) loaded(l mcast.Load) {
	if s.LoadErr != nil {
		if err := s.LoadErr(l.Block); err != nil {
			s.Sender.Loaded(l, nil, err)
			return
		}
	}
	data := s.image.Block(l.Block)
	s.measured(func() { s.Sender.Loaded(l, data, nil) })
}

// Withdraw says that the image's bytes are not what they should be, or are again.
func (s *Server) Withdraw(withdrawn bool) {
	state := wire.ImageServed
	if withdrawn {
		state = wire.ImageWithdrawn
	}
	s.Sender.SetState(1, state)
	s.pump()
}

func (s *Server) receive(from netip.AddrPort, data []byte) {
	if s.stopped {
		if len(s.held) < 1000 {
			s.held, s.from = append(s.held, data), append(s.from, from)
		}
		return
	}
	if len(data) == 5 && data[0] == unicastMark {
		s.answer(from, data)
		return
	}
	s.measured(func() { s.Sender.Input(s.now(), from, data) })
	s.pump()
}

// answer sends a block by unicast.
func (s *Server) answer(to netip.AddrPort, question []byte) {
	for left := s.image.Len(binary.BigEndian.Uint32(question[1:])); left > 0; {
		n := min(left, unicastPiece)
		s.SendStream(to, append(slices.Clone(question), make([]byte, n)...))
		left -= n
	}
}

// measured lets the machine work.
func (s *Server) measured(work func()) {
	if s.Cost == nil {
		work()
		return
	}
	begin := time.Now()
	work()
	*s.Cost += time.Since(begin)
}

// pump lets the machine do what it can and sets when to look again.
func (s *Server) pump() {
	if s.stopped {
		return
	}
	now := s.now()
	sender := s.Sender
	s.measured(func() { sender.Tick(now) })
	next := time.Time{}
	for {
		if s.Backlog() > portQueue {
			next = s.busy.Add(-portQueue / 2)
			break
		}
		var b *mcast.Burst
		s.measured(func() { b = sender.NextBurst(now) })
		if b == nil {
			next = sender.Next(now).Add(-s.Skew)
			break
		}
		for i := range b.Headers {
			room := len(b.Headers[i]) + len(b.Payloads[i]) + s.seals.sealer.Overhead()
			s.Send(b.To, s.seals.sealer.Seal(make([]byte, 0, room), b.Headers[i], b.Payloads[i]))
		}
	}
	for _, l := range sender.Loads() {
		s.world.After(s.LoadTime, func() {
			switch {
			case s.Sender != sender: // of an earlier life
			case s.stopped:
				s.read = append(s.read, l)
			default:
				s.loaded(l)
				s.pump()
			}
		})
	}
	for _, p := range sender.Packets() {
		s.Send(p.To, s.seals.sealer.Control(p.Data))
	}
	s.wake(next)
}

func (s *Server) now() time.Time { return s.world.now.Add(s.Skew) }

// wake sets the next pump, unless one is set for sooner.
func (s *Server) wake(at time.Time) {
	if s.wakeAt.After(s.world.now) && !at.Before(s.wakeAt) {
		return
	}
	s.wakeAt = at
	s.world.At(at, func() {
		if s.wakeAt.Equal(at) {
			s.wakeAt = time.Time{}
			s.pump()
		}
	})
}

// maxPayload is what an Ethernet frame has room for: symbols and their headers.
const maxPayload = 1472

// symbolsOf is how many symbols a server cuts a block of so many bytes into.
func symbolsOf(length int) int {
	const symbol = maxPayload - wire.DataHeaderSize
	return (length + symbol - 1) / symbol
}
