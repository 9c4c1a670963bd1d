package sim

import (
	"bytes"
	"math"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/wire"
)

// coalesce is how long a crowd's hosts collect datagrams before they look at them, as network cards do: it adds to each one's delay.
const coalesce = 500 * time.Microsecond

// laggards is of how many members one learns at each train what it has heard meanwhile.
const laggards = 256

// Crowd is many clients of one image on links that are alike, and lose independently. They cost a fraction of as many Clients:
//
//   - what their cards deliver within coalesce is one event;
//   - a symbol's bytes are compared with the image once, and no member keeps them;
//   - a member is handed the symbols of blocks that it does not have. What else it hears changes nothing but its counts, and these it
//     learns at once if it waits for anything, else before it does anything, and in turn with the others.
type Crowd struct {
	Members []*Member
	Wrong   int // symbols whose bytes are not the image's

	world   *World
	image   *Image
	link    Link
	has     [][]uint64 // for each block the members that have it, a bit each
	awake   []uint64   // members that wait for something
	joined  []uint64
	streams map[netip.AddrPort]*crowdStream
	order   []*crowdStream
	loss    float64 // natural logarithm of what arrives
}

// crowdStream is what one server sends to the group.
type crowdStream struct {
	index   int
	from    netip.AddrPort
	pending []crowdSymbol
	flush   bool   // there is an event that will look at pending
	symbols uint64 // that all have heard, but for what they lost
	last    wire.Data
	at      time.Time // of last
	turn    int       // of the member that learns next what it has heard
}

type crowdSymbol struct {
	at   time.Time
	data []byte
	head wire.Data
}

// Member is one client of a Crowd.
type Member struct {
	*Node
	Receiver *mcast.Receiver
	Joined   time.Time
	// OnBlock, if set, is called with each block that becomes here.
	OnBlock func(block uint32)

	crowd   *Crowd
	index   int
	skimmed []uint64 // of each stream's symbols
	watch   []uint64 // number of each stream at which it has something to do
	gap     int      // symbols until the next one is lost
	rng     *rand.Rand
	wakeAt  time.Time
}

// NewCrowd returns a crowd without members, for up to so many.
func (w *World) NewCrowd(image *Image, link Link, members int) *Crowd {
	words := (members + 63) / 64
	c := &Crowd{
		world: w, image: image, link: link, loss: math.Log1p(-link.Loss),
		has: make([][]uint64, image.Total()), awake: make([]uint64, words), joined: make([]uint64, words),
		streams: map[netip.AddrPort]*crowdStream{},
	}
	for block := range c.has {
		c.has[block] = make([]uint64, words)
	}
	w.crowds = append(w.crowds, c)
	return c
}

// Join adds a member that wants nothing yet.
func (c *Crowd) Join(window int) *Member {
	m := &Member{
		crowd: c, index: len(c.Members), Joined: c.world.now, gap: math.MaxInt,
		rng: rand.New(rand.NewPCG(c.world.Rand.Uint64(), 2)),
	}
	c.Members = append(c.Members, m)
	m.Node = c.world.NewNode(c.link, m.receive)
	m.Receiver = mcast.NewReceiver(c.world.now, mcast.ReceiverConfig{
		ID: c.image.ID, Blocks: c.image.Total(), Length: c.image.Len, Keep: func(block uint32) bool { return !m.Has(block) },
		Group: Group, Window: window, Coder: c.image.coder, Rand: m.rng, Hollow: true,
	})
	set(c.joined, m.index, true)
	for _, s := range c.order {
		m.skimmed, m.watch = append(m.skimmed, s.symbols), append(m.watch, 0)
	}
	m.lose()
	m.pump()
	return m
}

func set(bits []uint64, i int, on bool) {
	if on {
		bits[i>>6] |= 1 << (i & 63)
	} else {
		bits[i>>6] &^= 1 << (i & 63)
	}
}

// hear takes in what a server sends to a group: it is at the switch at a time.
func (c *Crowd) hear(at time.Time, from netip.AddrPort, data []byte) {
	at = at.Add(c.link.Delay)
	switch t, _ := wire.TypeOf(data); t {
	case wire.TypeHello: // of other clients: not for us
	case wire.TypeData:
		s := c.streams[from]
		if s == nil {
			s = &crowdStream{index: len(c.order), from: from}
			c.streams[from], c.order = s, append(c.order, s)
			for _, m := range c.Members {
				m.skimmed, m.watch = append(m.skimmed, 0), append(m.watch, 0)
			}
		}
		x := crowdSymbol{at: at, data: data}
		payload, err := wire.ParseData(data, &x.head)
		if err != nil || !c.image.holds(&x.head, payload) {
			c.Wrong++
		}
		s.pending = append(s.pending, x)
		if !s.flush {
			s.flush = true
			c.world.At(at.Add(coalesce), func() { c.arrive(s) })
		}
	default:
		c.world.At(at, func() {
			for _, m := range c.Members {
				if c.loss == 0 || m.rng.Float64() >= c.link.Loss {
					m.receive(from, data)
				}
			}
		})
	}
}

// arrive hands out what a server's stream has brought.
func (c *Crowd) arrive(s *crowdStream) {
	now := c.world.now
	n := len(s.pending)
	for n > 0 && s.pending[n-1].at.After(now) {
		n--
	}
	train := s.pending[:n]
	ears := make([]uint64, len(c.joined)) // of those who lack something of it
	symbols := uint64(0)
	for i := range train {
		head := &train[i].head
		if head.K == 0 {
			continue
		}
		symbols++
		if i > 0 && train[i-1].head.Block == head.Block {
			continue
		}
		for w, has := range c.has[head.Block] {
			ears[w] |= c.joined[w] &^ has
		}
	}
	c.each(ears, (*Member).catchUp)
	s.symbols += symbols
	s.last, s.at = train[n-1].head, train[n-1].at
	c.each(ears, func(m *Member) { m.take(s, train) })
	waiting := slices.Clone(c.awake)
	for w := range waiting {
		waiting[w] &^= ears[w]
	}
	c.each(waiting, func(m *Member) {
		if s.last.Seq >= m.watch[s.index] {
			m.learn() // that it has passed
		}
	})
	s.pending = append(s.pending[:0], s.pending[n:]...)
	if s.flush = len(s.pending) > 0; s.flush {
		c.world.At(s.pending[0].at.Add(coalesce), func() { c.arrive(s) })
	}
	for range min(1+len(c.Members)/laggards, len(c.Members)) {
		s.turn = (s.turn + 1) % len(c.Members)
		c.Members[s.turn].learn()
	}
}

// each calls f with the members of a set.
func (c *Crowd) each(members []uint64, f func(m *Member)) {
	for w, word := range members {
		for ; word != 0; word &= word - 1 {
			f(c.Members[w<<6+bits.TrailingZeros64(word)])
		}
	}
}

// holds says whether a symbol's bytes are the image's. Of parity it looks at the length.
func (i *Image) holds(d *wire.Data, payload []byte) bool {
	if d.K == 0 {
		return true
	}
	if d.Block >= i.Total() {
		return false
	}
	block := i.Block(d.Block)
	size := (len(block) + int(d.K) - 1) / int(d.K)
	if d.Index >= d.K {
		return len(payload) == size
	}
	from := int(d.Index) * size
	want := block[from:min(from+size, len(block))]
	return len(payload) >= len(want) && len(payload) <= size && bytes.Equal(payload[:len(want)], want)
}

// Has says whether the member has a block.
func (m *Member) Has(block uint32) bool {
	return m.crowd.has[block][m.index>>6]&(1<<(m.index&63)) != 0
}

// Read makes the member want blocks now.
func (m *Member) Read(blocks []uint32) {
	m.catchUp()
	for _, b := range blocks {
		if !m.Has(b) {
			m.Receiver.Want(m.crowd.world.now, b, wire.Demand)
		}
	}
	m.pump()
}

// lose draws which symbol is lost next.
func (m *Member) lose() {
	if m.crowd.loss < 0 {
		m.gap = int(min(math.Log(1-m.rng.Float64())/m.crowd.loss, 1e9))
	}
}

// lost says whether the next symbol is.
func (m *Member) lost() bool {
	if m.gap--; m.gap >= 0 {
		return false
	}
	m.lose()
	return true
}

// lostOf says how many of the next n symbols are.
func (m *Member) lostOf(n uint64) (lost uint64) {
	for n > 0 {
		if uint64(m.gap) >= n {
			m.gap -= int(n)
			return lost
		}
		n -= uint64(m.gap) + 1
		lost++
		m.lose()
	}
	return lost
}

// catchUp tells the Receiver what else was heard of the streams.
func (m *Member) catchUp() {
	for _, s := range m.crowd.order {
		if n := s.symbols - m.skimmed[s.index]; n > 0 {
			m.skimmed[s.index] = s.symbols
			if n -= m.lostOf(n); n > 0 {
				m.Receiver.Skim(s.at, s.from, &s.last, n)
			}
		}
	}
}

// follows says whether b is the n-th symbol after a in a burst of one block.
func follows(a, b *wire.Data, n int) bool {
	return b.Block == a.Block && b.K == a.K && b.Seq == a.Seq+uint64(n) && b.Index == a.Index+uint16(n) && b.Left == a.Left-uint8(n)
}

// learn is to catch up and to do what follows from that.
func (m *Member) learn() {
	m.catchUp()
	m.pump()
}

// take hears a train's symbols one by one.
func (m *Member) take(s *crowdStream, train []crowdSymbol) {
	m.skimmed[s.index] = s.symbols
	now := m.crowd.world.now
	for i := 0; i < len(train); {
		first := &train[i].head
		if first.K == 0 {
			if !m.lost() {
				m.Receiver.Skim(now, s.from, first, 0)
			}
			i++
			continue
		}
		arrived, n := uint64(0), 0
		for ; n < 64 && i < len(train) && follows(first, &train[i].head, n); n++ {
			if !m.lost() {
				arrived |= 1 << n
			}
			i++
		}
		m.Receiver.Run(now, s.from, *first, arrived)
	}
	m.HeardPackets += uint64(len(train))
	m.pump()
}

func (m *Member) receive(from netip.AddrPort, data []byte) {
	m.catchUp()
	m.Receiver.Input(m.crowd.world.now, from, data)
	m.pump()
}

func (m *Member) pump() {
	now := m.crowd.world.now
	m.Receiver.Step(now)
	for _, b := range m.Receiver.Blocks() {
		if !m.Has(b.Index) {
			set(m.crowd.has[b.Index], m.index, true)
			if m.OnBlock != nil {
				m.OnBlock(b.Index)
			}
		}
	}
	for _, p := range m.Receiver.Packets() {
		m.Send(p.To, p.Data)
	}
	awake := !m.Receiver.Idle()
	set(m.crowd.awake, m.index, awake)
	if awake {
		for _, s := range m.crowd.order {
			m.watch[s.index] = m.Receiver.Watch(s.from)
		}
	}
	m.wake(m.Receiver.Next(now))
}

func (m *Member) wake(at time.Time) {
	if m.wakeAt.After(m.crowd.world.now) && !at.Before(m.wakeAt) {
		return
	}
	m.wakeAt = at
	m.crowd.world.At(at, func() {
		if m.wakeAt.Equal(at) {
			m.wakeAt = time.Time{}
			m.learn()
		}
	})
}
