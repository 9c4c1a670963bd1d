package sim

import (
	"net/netip"
	"slices"
	"time"
)

// Link is how a node is attached to the network: by a port of a switch. The zero Link is perfect and takes no time.
type Link struct {
	Rate      float64       // bits a second out of the node, 0 for no limit
	In        float64       // bits a second into the node, 0 for no limit
	Queue     int           // bytes that the switch's port keeps waiting for In; what does not fit is lost
	Delay     time.Duration // one way
	Jitter    time.Duration // more delay, at random up to this: datagrams overtake each other
	Trunk     *Trunk        // that what arrives here has to pass first, nil for none
	Loss      float64       // of what would arrive here
	Burst     float64       // datagrams that are lost in a row, on average, as on a radio (Gilbert's model); 0 where each is lost by itself. A pause ends a row
	Duplicate float64       // of what arrives here arrives twice
	Down      bool          // nothing leaves or arrives
	Deaf      bool          // no group's datagrams arrive
	Mute      bool          // nothing that leaves for a group arrives anywhere
}

// fadeTime is the pause between two datagrams that ends a row of losses.
const fadeTime = 10 * time.Millisecond

// Trunk is a link between two switches, which several nodes share on their way in. A datagram to a group passes it once.
type Trunk struct {
	Rate  float64 // bits a second
	Queue int     // bytes that the switch before it keeps waiting; what does not fit is lost

	Passed  uint64 // bytes
	Dropped uint64 // datagrams
	busy    time.Time
}

// NewTrunk returns a trunk whose queue takes as long as that to send when it is full.
func NewTrunk(rate float64, queue time.Duration) *Trunk {
	return &Trunk{Rate: rate, Queue: int(rate / 8 * queue.Seconds())}
}

// Waiting is how long what is in the queue at a time will take.
func (t *Trunk) Waiting(now time.Time) time.Duration { return max(t.busy.Sub(now), 0) }

// pass returns when a datagram that comes at a time is through, or false if there is no room for it.
func (t *Trunk) pass(at time.Time, size int) (time.Time, bool) {
	if int(t.Waiting(at).Seconds()*t.Rate/8)+size > t.Queue {
		t.Dropped++
		return time.Time{}, false
	}
	t.Passed += uint64(size)
	return after(&t.busy, at, size, t.Rate), true
}

// frame is what Ethernet and IPv4 add to a datagram, in bytes.
const frame = 42

// Node is an address on the network.
type Node struct {
	Addr netip.AddrPort
	Link Link
	Side int // of a partition: nodes on other sides are not reached

	SentBytes    uint64 // on the wire
	SentPackets  uint64
	HeardPackets uint64
	Passed       uint64 // bytes that the switch's port let through
	Dropped      uint64 // datagrams that it did not, for want of room in its queue

	world  *World
	groups []netip.AddrPort // joined
	busy   time.Time        // until when the port is sending
	inBusy time.Time        // until when the switch's port is sending to us
	fading bool             // a row of losses has begun
	faded  time.Time        // the last datagram that was lost in a row
	input  func(from netip.AddrPort, data []byte)
}

// NewNode attaches a node. What arrives at it goes to input, which must not keep the bytes.
func (w *World) NewNode(link Link, input func(from netip.AddrPort, data []byte)) *Node {
	w.hosts++
	n := w.hosts
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 10810)
	node := &Node{Addr: addr, Link: link, world: w, input: input}
	w.nodes[addr] = node
	return node
}

// Join subscribes the node to a group.
func (n *Node) Join(group netip.AddrPort) {
	if !slices.Contains(n.groups, group) {
		n.groups = append(n.groups, group)
		n.world.groups[group] = append(n.world.groups[group], n)
	}
}

// Leave ends a subscription.
func (n *Node) Leave(group netip.AddrPort) {
	n.groups = slices.DeleteFunc(n.groups, func(g netip.AddrPort) bool { return g == group })
	n.world.groups[group] = slices.DeleteFunc(slices.Clone(n.world.groups[group]), func(m *Node) bool { return m == n })
}

// Backlog is how long the port will still be busy with what was sent.
func (n *Node) Backlog() time.Duration { return max(n.busy.Sub(n.world.now), 0) }

// Send puts a datagram on the wire, to a node or a group. The world keeps the bytes.
func (n *Node) Send(to netip.AddrPort, data []byte) { n.SendAs(n.Addr, to, data) }

// SendAs is Send with another's address as the source, as a hostile node would.
func (n *Node) SendAs(from, to netip.AddrPort, data []byte) {
	if n.Link.Down {
		return
	}
	size := len(data) + frame
	n.SentBytes += uint64(size)
	n.SentPackets++
	if n.world.OnSend != nil {
		n.world.OnSend(data, size)
	}
	left := n.world.now
	if n.Link.Rate > 0 {
		left = after(&n.busy, left, size, n.Link.Rate)
	}
	members := n.world.groups[to]
	if m := n.world.nodes[to]; m != nil {
		members = []*Node{m}
	}
	if to.Addr().IsMulticast() && !n.Link.Mute {
		for _, c := range n.world.crowds {
			c.hear(left.Add(n.Link.Delay+n.jitter()), from, data)
		}
	}
	// Nodes that it reaches at the same time share an event: with a thousand alike that is most of the work.
	var at time.Time
	var together []*Node
	port := left.Add(n.Link.Delay + n.jitter())
	var trunk *Trunk // that was passed last
	var beyond time.Time
	through := false
	for _, m := range members {
		if m == n || m.Side != n.Side || to.Addr().IsMulticast() && (n.Link.Mute || m.Link.Deaf) {
			continue
		}
		if m.Link.Trunk != nil && m.Link.Trunk != trunk {
			trunk = m.Link.Trunk
			beyond, through = trunk.pass(port, size)
		}
		for range m.copies() {
			t := port
			if n.Link.Jitter > 0 {
				t = left.Add(n.Link.Delay + n.jitter())
			}
			if m.Link.Trunk != nil {
				if !through {
					continue
				}
				t = beyond
			}
			t, ok := m.arrival(t, size)
			if !ok {
				continue
			}
			if len(together) > 0 && !t.Equal(at) {
				n.world.deliver(at, together, from, data)
				together = nil
			}
			if together == nil {
				together = make([]*Node, 0, len(members))
			}
			at, together = t, append(together, m)
		}
	}
	if len(together) > 0 {
		n.world.deliver(at, together, from, data)
	}
}

// SendStream sends bytes to a node as by TCP: they take their turn at both ports, and are not lost.
func (n *Node) SendStream(to netip.AddrPort, data []byte) {
	m := n.world.nodes[to]
	if n.Link.Down || m == nil {
		return
	}
	size := len(data) + frame
	n.SentBytes += uint64(size)
	at := n.world.now
	if n.Link.Rate > 0 {
		at = after(&n.busy, at, size, n.Link.Rate)
	}
	if m.Link.In > 0 {
		at = after(&m.inBusy, at, size, m.Link.In)
	}
	n.world.deliver(at.Add(n.Link.Delay+m.Link.Delay), []*Node{m}, n.Addr, data)
}

// after is when size more bytes have passed a port that is busy until then already.
func after(busy *time.Time, now time.Time, size int, rate float64) time.Time {
	if busy.After(now) {
		now = *busy
	}
	*busy = now.Add(time.Duration(float64(size) * 8 / rate * float64(time.Second)))
	return *busy
}

// copies is how many of a datagram reach the node's port.
func (n *Node) copies() int {
	rng := n.world.Rand
	switch {
	case n.Link.Loss > 0 && n.lost():
		return 0
	case n.Link.Duplicate > 0 && rng.Float64() < n.Link.Duplicate:
		return 2
	}
	return 1
}

// lost says whether the medium loses the next datagram to the node.
func (n *Node) lost() bool {
	p := n.Link.Loss
	if n.Link.Burst > 1 {
		if n.fading && n.world.now.Sub(n.faded) < fadeTime {
			p = 1 - 1/n.Link.Burst
		} else {
			p = min(p/(1-p)/n.Link.Burst, 1)
		}
	}
	n.fading, n.faded = n.world.Rand.Float64() < p, n.world.now
	return n.fading
}

func (n *Node) jitter() time.Duration {
	if n.Link.Jitter <= 0 {
		return 0
	}
	return time.Duration(n.world.Rand.Int64N(int64(n.Link.Jitter)))
}

// arrival is when a datagram that is at the switch's port at a time arrives at the node, or false if the port has no room for it.
func (n *Node) arrival(at time.Time, size int) (time.Time, bool) {
	if n.Link.In > 0 {
		if waiting := n.inBusy.Sub(at).Seconds() * n.Link.In / 8; waiting > 0 && int(waiting)+size > n.Link.Queue {
			n.Dropped++
			return time.Time{}, false
		}
		n.Passed += uint64(size)
		at = after(&n.inBusy, at, size, n.Link.In)
	}
	return at.Add(n.Link.Delay + n.jitter()), true
}

func (w *World) deliver(at time.Time, to []*Node, from netip.AddrPort, data []byte) {
	w.At(at, func() {
		for _, n := range to {
			if !n.Link.Down {
				n.HeardPackets++
				n.input(from, data)
			}
		}
	})
}
