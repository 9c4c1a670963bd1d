package sim

import (
	"bytes"
	"math"
	"math/bits"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

const (
	// tickTime is how often a crowd's hosts look at what has come, as network cards make them do, and at their timers: it adds to each delay.
	tickTime = 500 * time.Microsecond
	// timerTicks bounds how far ahead a member's timer is set. One for later fires early, finds nothing to do, and is set again.
	timerTicks = 4096
	// laggards is of how many members one learns at each tick what it has heard meanwhile.
	laggards = 2048
	// company is how many members must have something to do for others to be worth waking for it.
	company = 32
)

// Crowd is many clients of one image on links that are alike, and lose independently. They cost a fraction of as many Clients:
//
//   - what comes within tickTime is looked at together, and taken apart once for all of them;
//   - a symbol's bytes are compared with the image once, and no member keeps them;
//   - a member is handed the symbols of blocks that it does not have. What else it hears changes nothing but its counts, and these it
//     learns at once if it waits for anything, else before it does anything, and in turn with the others;
//   - all processors have a part in it: what a member does at a tick changes nothing but its own. What it sends goes out after that, in the
//     order of the members, so that the number of processors is of no effect.
type Crowd struct {
	Members []*Member
	Wrong   int // symbols whose bytes are not the image's

	world   *World
	image   *Image
	link    Link
	has     [][]uint64 // for each block the members that have it, a bit each
	joined  []uint64
	awake   []uint64 // members that wait for something
	called  []uint64 // members that have something to do at the next tick, beside hearing what they lack
	busy    []int    // words of these sets that have members with something to do at this tick
	streams map[netip.AddrPort]*crowdStream
	order   []*crowdStream
	notices []mail                // of all to all, since the last tick
	news    []mail                // those that are looked at in this one
	timers  [timerTicks][]*Member // by the number of their tick
	ticks   int                   // so far
	turn    int                   // of the member that learns next what it has heard
	loss    float64               // natural logarithm of what arrives
}

// crowdStream is what one server sends to the group.
type crowdStream struct {
	index         int
	from          netip.AddrPort
	pending       []crowdSymbol
	before, after heard    // a tick
	train         []run    // that has come between these
	ears          []uint64 // of members that lack something of it
}

// heard is how far a stream has come for all members, but for what they lost.
type heard struct {
	symbols uint64
	last    wire.Data
	at      time.Time // of last
}

type crowdSymbol struct {
	at   time.Time
	head wire.Data
}

// run is symbols of one block that follow each other, or a tail mark.
type run struct {
	head wire.Data // of the first
	n    int       // of them, up to 64
}

// mail is a datagram on its way to a member, or to all.
type mail struct {
	at   time.Time
	from netip.AddrPort
	data []byte
}

// NewCrowd returns a crowd without members, for up to so many.
func (w *World) NewCrowd(image *Image, link Link, members int) *Crowd {
	words := (members + 63) / 64
	c := &Crowd{
		world: w, image: image, link: link, loss: math.Log1p(-link.Loss), has: make([][]uint64, image.Total()),
		joined: make([]uint64, words), awake: make([]uint64, words), called: make([]uint64, words),
		streams: map[netip.AddrPort]*crowdStream{},
	}
	for block := range c.has {
		c.has[block] = make([]uint64, words)
	}
	w.crowds = append(w.crowds, c)
	w.After(tickTime, c.tick)
	return c
}

func has(bits []uint64, i int) bool { return bits[i>>6]&(1<<(i&63)) != 0 }

func set(bits []uint64, i int, on bool) {
	if on {
		bits[i>>6] |= 1 << (i & 63)
	} else {
		bits[i>>6] &^= 1 << (i & 63)
	}
}

// hear takes in what a host sends to a group: it is at the switch at a time.
func (c *Crowd) hear(at time.Time, from netip.AddrPort, data []byte) {
	at = at.Add(c.link.Delay)
	switch t, _ := wire.TypeOf(data); t {
	case wire.TypeHello: // of other clients: not for us
	case wire.TypeData:
		s := c.streams[from]
		if s == nil {
			s = &crowdStream{index: len(c.order), from: from, ears: make([]uint64, len(c.joined))}
			c.streams[from], c.order = s, append(c.order, s)
			for _, m := range c.Members {
				m.heard = append(m.heard, memberStream{})
			}
		}
		x := crowdSymbol{at: at}
		payload, err := wire.ParseData(data, &x.head)
		if err != nil || !c.image.holds(&x.head, payload) {
			c.Wrong++
			return
		}
		s.pending = append(s.pending, x)
	default:
		c.notices = append(c.notices, mail{at, from, data})
	}
}

// tick lets the members look at what has come since the last one.
func (c *Crowd) tick() {
	now := c.world.now
	c.ticks++
	for _, s := range c.order {
		c.collect(s)
	}
	c.news = c.news[:0]
	c.notices = slices.DeleteFunc(c.notices, func(n mail) bool {
		if n.at.After(now) {
			return false
		}
		c.news = append(c.news, n)
		return true
	})
	slot := &c.timers[c.ticks%timerTicks]
	for _, m := range *slot {
		if m.timer == c.ticks {
			set(c.called, m.index, true)
		}
	}
	clear(*slot)
	*slot = (*slot)[:0]
	for range min(1+len(c.Members)/laggards, len(c.Members)) {
		c.turn = (c.turn + 1) % len(c.Members)
		set(c.called, c.turn, true)
	}
	c.busy = c.busy[:0]
	members := 0
	for w := range c.called {
		if len(c.news) > 0 {
			c.called[w] |= c.joined[w]
		}
		if busy := c.called[w] | c.awake[w] | c.ears(w); busy != 0 {
			c.busy = append(c.busy, w)
			members += bits.OnesCount64(busy)
		}
	}
	c.share(members)
	for _, w := range c.busy {
		for called := c.called[w]; called != 0; called &= called - 1 {
			c.Members[w<<6+bits.TrailingZeros64(called)].settle()
		}
		c.called[w] = 0
	}
	c.world.After(tickTime, c.tick)
}

// collect takes in what a server's stream has brought.
func (c *Crowd) collect(s *crowdStream) {
	if len(s.train) > 0 {
		clear(s.ears)
	}
	s.before, s.train = s.after, s.train[:0]
	n := 0
	for ; n < len(s.pending) && !s.pending[n].at.After(c.world.now); n++ {
		x := &s.pending[n]
		s.after.last, s.after.at = x.head, x.at
		if x.head.K > 0 {
			s.after.symbols++
		}
		if last := len(s.train) - 1; last >= 0 && s.train[last].goesOn(&x.head) {
			s.train[last].n++
			continue
		}
		s.train = append(s.train, run{x.head, 1})
		if x.head.K > 0 {
			for w, has := range c.has[x.head.Block] {
				s.ears[w] |= c.joined[w] &^ has
			}
		}
	}
	s.pending = append(s.pending[:0], s.pending[n:]...)
}

// goesOn says whether a symbol continues the run.
func (r *run) goesOn(d *wire.Data) bool {
	return r.n < 64 && r.head.K > 0 && d.Block == r.head.Block && d.K == r.head.K && d.Class == r.head.Class &&
		d.Seq == r.head.Seq+uint64(r.n) && d.Index == r.head.Index+uint16(r.n) && d.Left == r.head.Left-uint8(r.n)
}

// share lets all members look that have something to do, on as many processors as there are.
func (c *Crowd) share(members int) {
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)); i <= len(c.busy); i = int(next.Add(1)) {
			c.look(c.busy[i-1])
		}
	}
	var others sync.WaitGroup
	if members >= company {
		for range min(runtime.GOMAXPROCS(0), len(c.busy)) - 1 {
			others.Go(work)
		}
	}
	work()
	others.Wait()
}

// ears are the members of a word that lack something of what has come.
func (c *Crowd) ears(w int) (ears uint64) {
	for _, s := range c.order {
		ears |= s.ears[w]
	}
	return ears
}

// look lets the members of a word look at what has come, and leaves in called those that did. Who waits for something has nothing to do
// if it is not that, and who is not waiting need not know how far all servers are: it asks none of them for anything.
func (c *Crowd) look(w int) {
	ears := c.ears(w)
	for busy := c.called[w] | c.awake[w] | ears; busy != 0; busy &= busy - 1 {
		bit := busy & -busy
		m := c.Members[w<<6+bits.TrailingZeros64(bit)]
		switch {
		case c.called[w]&bit != 0:
			m.look(true)
		case ears&bit != 0:
			m.look(m.Receiver.Waiting() > 0)
		case m.passed():
			m.look(true)
		default:
			continue
		}
		c.called[w] |= bit
	}
}

// call makes a member look at the first tick that is not before a time.
func (c *Crowd) call(m *Member, at time.Time) {
	ahead := at.Sub(c.world.now)
	n := c.ticks + int(min(max((ahead+tickTime-1)/tickTime, 1), timerTicks-1))
	if m.timer > c.ticks && m.timer <= n {
		return
	}
	m.timer = n
	c.timers[n%timerTicks] = append(c.timers[n%timerTicks], m)
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
