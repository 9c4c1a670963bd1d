package sim

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

var chaosRuns = flag.Int("chaos", 300, "random schedules of faults on small networks to try")

// foundSeeds are schedules that once found a fault in the protocol, or that a change is likely to break again.
var foundSeeds = []struct {
	seed uint64
	what string
}{
	{79, "a forged number kept a client from being sent anything again"},
	{140, "the list of holes grew"},
	{2157, "nobody told a client that was away where the stream was"},
	{2161, "the list of holes grew"},
}

// TestNoScheduleOfFaultsBreaksAnInvariant plays faults of every kind on many small networks, and looks at all machines at each step: no
// wrong byte is taken, and what they hold is bounded. In the end there is a replica again: every read ends then, and nothing goes on.
func TestNoScheduleOfFaultsBreaksAnInvariant(t *testing.T) {
	for _, f := range foundSeeds {
		t.Run(fmt.Sprintf("%s, seed=%d", f.what, f.seed), func(t *testing.T) { playChaos(t, f.seed) })
	}
	first, n := uint64(1), uint64(*chaosRuns)
	if *oneSeed > 0 {
		first, n = *oneSeed, 1
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			playChaos(t, seed)
		})
	}
}

// chaos is a room in which anything fails.
type chaos struct {
	*room
	readers []*reader
	story   []string
	damage  map[*Node]float64 // of what arrives there is changed on the way
	restart int
}

func (c *chaos) tell(format string, args ...any) {
	c.story = append(c.story, fmt.Sprintf("%v: ", c.elapsed())+fmt.Sprintf(format, args...))
}

// harm lets datagrams be changed before a node gets them.
func (c *chaos) harm(n *Node) {
	input := n.input
	n.input = func(from netip.AddrPort, data []byte) {
		if p := c.damage[n]; p > 0 && c.Rand.Float64() < p {
			data = bytes.Clone(data)
			for range 1 + c.Rand.IntN(4) {
				data[c.Rand.IntN(len(data))] = byte(c.Rand.Uint32())
			}
			if c.Rand.IntN(4) == 0 {
				data = data[:c.Rand.IntN(len(data))]
			}
		}
		input(from, data)
	}
}

func playChaos(t *testing.T, seed uint64) {
	rng := NewWorld(seed ^ 0xc4a05).Rand
	blockSize := []int{4 << 10, 16 << 10, 64 << 10}[rng.IntN(3)]
	blocks := 1 + rng.IntN(40)
	c := &chaos{
		room:   newRoom(t, seed, int64(blockSize*blocks-rng.IntN(blockSize)), blockSize),
		damage: map[*Node]float64{},
	}
	defer func() {
		if t.Failed() {
			for _, line := range c.story {
				t.Log(line)
			}
		}
	}()
	for range 1 + rng.IntN(4) {
		s := c.serveOver(Link{Rate: []float64{10e6, 100e6, 1e9}[rng.IntN(3)], Delay: time.Duration(1 + rng.Int64N(2e6))})
		c.harm(s.Node)
	}
	link := func() Link {
		return Link{
			Delay: time.Duration(1 + rng.Int64N([]int64{1e5, 1e6, 2e7}[rng.IntN(3)])), Jitter: time.Duration(rng.Int64N([]int64{1, 1e6, 1e7}[rng.IntN(3)])),
			Loss: []float64{0, 0.01, 0.1, 0.3}[rng.IntN(4)], Duplicate: []float64{0, 0, 0.1}[rng.IntN(3)],
		}
	}
	join := func() {
		m := c.join(link())
		c.harm(m.Node)
		if rng.IntN(2) == 0 {
			m.Copy()
		}
		c.readers = append(c.readers, c.read(m, uint32(rng.IntN(16)), time.Duration(rng.Int64N(1e7))))
		c.tell("client %d joins: %+v", len(c.clients), m.Link)
	}
	c.tell("%d servers, %d blocks of %d", len(c.servers), c.image.Total(), blockSize)
	for range 1 + rng.IntN(4) {
		join()
	}
	for range 4 + rng.IntN(12) {
		c.steps(time.Duration(rng.Int64N([]int64{1e7, 1e8, 1e9, 5e9}[rng.IntN(4)])))
		if t.Failed() {
			return
		}
		i, j := rng.IntN(len(c.servers)), rng.IntN(len(c.clients))
		s, m := c.servers[i], c.clients[j]
		switch rng.IntN(16) {
		case 0:
			c.tell("server %d is killed", i+1)
			s.Kill()
		case 1:
			c.tell("server %d is started anew, with another epoch", i+1)
			s.Start(uint16(i+1), 0)
			c.restart++
		case 2:
			c.tell("server %d is stopped", i+1)
			s.Stop()
		case 3:
			if s.stopped && !s.Link.Down {
				c.tell("server %d goes on", i+1)
				s.Continue()
			}
		case 4:
			side := 1 + rng.IntN(2)
			c.tell("a partition: every second node is on side %d", side)
			for k, n := range c.nodes() {
				n.Side = k % 2 * side
			}
		case 5:
			skip := time.Duration(rng.Int64N(int64([]time.Duration{time.Second, time.Minute, 48 * time.Hour}[rng.IntN(3)])))
			if rng.IntN(2) == 0 {
				c.tell("server %d's clock jumps by %v", i+1, skip)
				s.Skew += skip
			} else {
				c.tell("client %d's clock jumps by %v", j+1, skip)
				m.Skew += skip
			}
		case 6:
			n := c.nodes()[rng.IntN(len(c.nodes()))]
			c.damage[n] = []float64{0.01, 0.1, 0.5}[rng.IntN(3)]
			c.tell("%v of what arrives at %v is damaged", c.damage[n], n.Addr)
		case 7:
			s.LoadTime = time.Duration(rng.Int64N(3e8))
			c.tell("server %d's disk takes %v", i+1, s.LoadTime)
		case 8:
			every := 1 + rng.Uint32N(4)
			c.tell("server %d cannot read each block that %d divides", i+1, every)
			s.LoadErr = func(block uint32) error {
				if block%every == 0 {
					return errors.New("bad sector")
				}
				return nil
			}
		case 9:
			c.tell("client %d hears no group", j+1)
			m.Link.Deaf = true
		case 10:
			c.tell("server %d is mute", i+1)
			s.Link.Mute = true
		case 11:
			c.tell("server %d withdraws the image", i+1)
			s.Withdraw(true)
		case 12:
			c.tell("client %d loses every second block", j+1)
			for b := range c.image.Total() {
				if b%2 == 0 {
					m.Evict(b)
				}
			}
			m.Copy()
		case 13:
			if len(c.clients) < 8 {
				join()
			}
		case 14:
			c.tell("client %d is off the network", j+1)
			m.Link.Down = true
		case 15:
			c.tell("all is well")
			c.cure()
		}
	}
	c.cure()
	alive := rng.IntN(len(c.servers))
	for i, s := range c.servers {
		if i != alive && rng.IntN(2) == 0 {
			c.tell("server %d is killed for good", i+1)
			s.Kill()
		}
	}
	c.tell("server %d is there, for good", alive+1)
	for _, d := range c.readers {
		c.until(2*time.Minute, "every reader has read all", d.done)
	}
	for _, m := range c.clients {
		m.Copy()
	}
	c.finish(2 * time.Minute)
	c.check()
}

func (c *chaos) nodes() []*Node {
	var out []*Node
	for _, s := range c.servers {
		out = append(out, s.Node)
	}
	for _, m := range c.clients {
		out = append(out, m.Node)
	}
	return out
}

// cure ends all faults but loss, delay and reordering.
func (c *chaos) cure() {
	c.heal()
	clear(c.damage)
	for _, n := range c.nodes() {
		n.Side = 0
	}
}

// steps lets time pass, and checks often.
func (c *chaos) steps(d time.Duration) {
	for range 20 {
		c.wait(d / 20)
		if c.check(); c.t.Failed() {
			return
		}
	}
}

// check looks at what has to hold at any time.
func (c *chaos) check() {
	c.t.Helper()
	blocks, bytes := int(c.image.Total()), int(c.image.desc.Size)
	for i, m := range c.clients {
		have := 0
		for block, ok := range m.Have {
			if ok {
				have++
			} else if m.Left == 0 {
				c.t.Errorf("client %d has all blocks but %d", i+1, block)
			}
		}
		if have+m.Left != blocks {
			c.t.Errorf("client %d has %d of %d blocks and lacks %d", i+1, have, blocks, m.Left)
		}
		s := m.Receiver.Sizes()
		if s.Wants > blocks || s.Assemblies > blocks || s.Held > bytes+blocks*image32 || s.Queued > 4*blocks+64 || s.Order > 4*blocks+256 ||
			s.Replicas > 64 || s.Greetings > 64 || s.Unanswered > 64*s.Replicas {
			c.t.Errorf("client %d of an image of %d blocks holds %+v", i+1, blocks, s)
		}
	}
	for i, srv := range c.servers {
		s := srv.Sender.Sizes()
		if s.Peers > 2*len(c.clients)+8 || s.Jobs > blocks || s.Loaded > 2*32 || s.Queued > s.Peers*wire.Classes*(2*blocks+65) || s.Remembered > 1<<16 {
			c.t.Errorf("server %d of an image of %d blocks and %d clients holds %+v", i+1, blocks, len(c.clients), s)
		}
	}
	if slices.ContainsFunc(c.readers, func(d *reader) bool { return d.next > d.end }) {
		c.t.Error("a reader is behind the end")
	}
}

// image32 is more than a page of the tree has for one block.
const image32 = 64
