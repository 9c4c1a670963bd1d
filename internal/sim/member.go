package sim

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/wire"
)

// Member is one client of a Crowd.
type Member struct {
	*Node
	Receiver *mcast.Receiver
	Joined   time.Time
	// OnBlock, if set, is called with each block that becomes here. Other members may be at work then.
	OnBlock func(block uint32)

	crowd *Crowd
	index int
	heard []memberStream
	gap   int // datagrams of the group until the next one is lost
	rng   *rand.Rand
	post  []mail // that has come since it looked
	then  func() // is called at a time, as the owner wishes
	due   time.Time
	sends []mcast.Packet // that it has made at this tick
	timer int            // number of the tick for which it is in the crowd's timers
}

// memberStream is what a member knows of one server's stream.
type memberStream struct {
	skimmed uint64 // of its symbols
	watch   uint64 // number at which the member has something to do
}

// Join adds a member that wants nothing yet.
func (c *Crowd) Join(window int) *Member {
	m := &Member{
		crowd: c, index: len(c.Members), Joined: c.world.now, gap: math.MaxInt,
		rng: rand.New(rand.NewPCG(c.world.Rand.Uint64(), 2)),
	}
	c.Members = append(c.Members, m)
	m.Node = c.world.NewNode(c.link, func(from netip.AddrPort, data []byte) {
		m.post = append(m.post, mail{from: from, data: data})
		set(c.called, m.index, true)
	})
	m.Receiver = mcast.NewReceiver(c.world.now, mcast.ReceiverConfig{
		ID: c.image.ID, Blocks: c.image.Total(), Length: c.image.Len, Keep: func(block uint32) bool { return !m.Has(block) },
		Group: Group, Window: window, Coder: c.image.coder, Rand: m.rng, Hollow: true,
	})
	set(c.joined, m.index, true)
	for _, s := range c.order {
		m.heard = append(m.heard, memberStream{skimmed: s.after.symbols})
	}
	m.lose()
	c.call(m, c.world.now)
	return m
}

// Has says whether the member has a block.
func (m *Member) Has(block uint32) bool { return has(m.crowd.has[block], m.index) }

// Read makes the member want blocks now.
func (m *Member) Read(blocks []uint32) {
	m.want(blocks)
	m.crowd.call(m, m.crowd.world.now)
}

func (m *Member) want(blocks []uint32) {
	for _, b := range blocks {
		if !m.Has(b) {
			m.Receiver.Want(m.crowd.world.now, b, wire.Demand)
		}
	}
}

// at lets f happen at a time, in place of what else was to.
func (m *Member) at(t time.Time, f func()) { m.due, m.then = t, f }

// lose draws which datagram is lost next.
func (m *Member) lose() {
	if m.crowd.loss < 0 {
		m.gap = int(min(m.rng.ExpFloat64()/-m.crowd.loss, 1e9))
	}
}

// arrivals says which of the next n datagrams of the group arrive, up to 64, from the lowest bit on.
func (m *Member) arrivals(n int) uint64 {
	arrived := ^uint64(0) >> (64 - n)
	at := m.gap
	for at < n {
		arrived &^= 1 << at
		m.lose()
		at += 1 + m.gap
	}
	m.gap = at - n
	return arrived
}

// lostOf says how many of the next n are lost.
func (m *Member) lostOf(n uint64) (lost uint64) {
	p := m.crowd.link.Loss
	if mean := float64(n) * p; mean > 30 { // nearly a normal distribution
		m.lose()
		return uint64(min(max(math.Round(mean+m.rng.NormFloat64()*math.Sqrt(mean*(1-p))), 0), float64(n)))
	}
	for uint64(m.gap) < n {
		n -= uint64(m.gap) + 1
		lost++
		m.lose()
	}
	m.gap -= int(n)
	return lost
}

// passed says whether a stream has come to where the member waits for it.
func (m *Member) passed() bool {
	for _, s := range m.crowd.order {
		if len(s.train) > 0 && s.after.last.Seq >= m.heard[s.index].watch {
			return true
		}
	}
	return false
}

// look does what there is to do at a tick. What concerns others it leaves to settle. With all it takes in how far each server is.
func (m *Member) look(all bool) {
	c := m.crowd
	for _, s := range c.order {
		switch {
		case has(s.ears, m.index):
			m.skim(s, &s.before)
			m.take(s)
		case all:
			m.skim(s, &s.after)
		}
	}
	now := c.world.now
	for _, n := range c.news {
		if m.arrivals(1) != 0 {
			m.Receiver.Input(now, n.from, n.data)
		}
	}
	for _, n := range m.post {
		m.Receiver.Input(now, n.from, n.data)
	}
	clear(m.post)
	m.post = m.post[:0]
	for _, b := range m.Receiver.Blocks() {
		if !m.Has(b.Index) {
			set(c.has[b.Index], m.index, true)
			if m.OnBlock != nil {
				m.OnBlock(b.Index)
			}
		}
	}
	if m.then != nil && !m.due.After(now) {
		then := m.then
		m.then = nil
		then()
	}
	m.Receiver.Step(now)
	m.sends = m.Receiver.Packets()
	awake := !m.Receiver.Idle()
	set(c.awake, m.index, awake)
	if awake {
		for _, s := range c.order {
			m.heard[s.index].watch = m.Receiver.Watch(s.from)
		}
	}
}

// settle sends what the member has made, and sets its timer.
func (m *Member) settle() {
	for _, p := range m.sends {
		m.Send(p.To, p.Data)
	}
	m.sends = nil
	next := m.Receiver.Next(m.crowd.world.now)
	if m.then != nil && m.due.Before(next) {
		next = m.due
	}
	m.crowd.call(m, next)
}

// skim tells the Receiver how far it has heard a stream.
func (m *Member) skim(s *crowdStream, h *heard) {
	if n := h.symbols - m.heard[s.index].skimmed; n > 0 {
		m.heard[s.index].skimmed = h.symbols
		if n -= m.lostOf(n); n > 0 {
			m.Receiver.Skim(h.at, s.from, &h.last, n)
		}
	}
}

// take hears a train's symbols.
func (m *Member) take(s *crowdStream) {
	now := m.crowd.world.now
	m.heard[s.index].skimmed = s.after.symbols
	for i := range s.train {
		r := &s.train[i]
		arrived := m.arrivals(r.n)
		switch {
		case arrived == 0:
		case r.head.K == 0:
			m.Receiver.Skim(now, s.from, &r.head, 0)
		case m.Has(r.head.Block):
			last := r.head
			last.Seq += uint64(bits.Len64(arrived)) - 1
			m.Receiver.Skim(now, s.from, &last, uint64(bits.OnesCount64(arrived)))
		default:
			m.Receiver.Run(now, s.from, r.head, arrived)
		}
	}
}
