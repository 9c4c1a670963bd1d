package mcast

import "github.com/dnbd/dnbd/internal/wire"

// ReceiverSizes is what a Receiver holds in memory.
type ReceiverSizes struct {
	Wants      int // blocks wanted and not here, but for bulk that was not asked for
	Queued     int // places in the queues of wants
	Assemblies int // incomplete blocks
	Held       int // bytes of these
	Order      int // places in the lists of incomplete blocks
	Replicas   int
	Greetings  int // servers that are being asked what they have
	Unanswered int // requests whose answers are awaited
}

// Sizes returns how much the Receiver holds.
func (r *Receiver) Sizes() ReceiverSizes {
	s := ReceiverSizes{
		Wants: len(r.wants), Queued: len(r.again), Assemblies: len(r.asms), Held: r.held,
		Order: len(r.strays) + len(r.open) + len(r.holes), Replicas: len(r.replicas), Greetings: len(r.greeter.greetings),
	}
	for _, q := range r.queues {
		s.Queued += len(q)
	}
	for _, p := range r.replicas {
		s.Unanswered += len(p.unanswered)
	}
	return s
}

// SenderSizes is what a Sender holds in memory.
type SenderSizes struct {
	Peers      int
	Jobs       int // blocks that will be sent
	Loaded     int // of them that are being read from the disk, or were
	Queued     int // places in the clients' queues
	Remembered int // transmissions
}

// Sizes returns how much the Sender holds.
func (s *Sender) Sizes() SenderSizes {
	out := SenderSizes{Peers: len(s.peers), Loaded: s.ahead}
	for _, e := range s.exports {
		out.Jobs += len(e.wanted)
		out.Remembered += len(e.order)
	}
	for _, p := range s.peers {
		for class := range wire.Classes {
			out.Queued += len(p.queues[class])
		}
	}
	return out
}
