package sim

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

var (
	oneSeed  = flag.Uint64("seed", 0, "run each scenario with this seed only")
	runs     = flag.Int("runs", 30, "random fault schedules to try")
	runsFrom = flag.Uint64("runs-from", 1, "seed of the first of them")
)

// seeds runs a scenario with the seeds 1 to n, each a subtest that names its seed, or with the one of -seed.
func seeds(t *testing.T, n uint64, scenario func(t *testing.T, seed uint64)) {
	first := uint64(1)
	if *oneSeed > 0 {
		first, n = *oneSeed, 1
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			scenario(t, seed)
		})
	}
}

const (
	window = 4 << 20
	lan    = 50 * time.Microsecond
	port   = 200e6 // bits a second that a server's port carries, where a scenario does not say otherwise
)

// room is a world with an image, its servers, and clients that are checked at the end.
type room struct {
	*World
	t       *testing.T
	image   *Image
	servers []*Server
	clients []*Client
	start   time.Time
}

func newRoom(t *testing.T, seed uint64, size int64, blockSize int) *room {
	w := NewWorld(seed)
	return &room{World: w, t: t, image: NewImage(size, blockSize), start: w.Now()}
}

// serve adds a server with the default port.
func (r *room) serve() *Server { return r.serveOver(Link{Rate: port, Delay: lan}) }

func (r *room) serveOver(link Link) *Server {
	s := r.NewServer(uint16(len(r.servers)+1), r.image, 0, link)
	r.servers = append(r.servers, s)
	return s
}

// join adds a client that wants nothing yet.
func (r *room) join(link Link) *Client {
	if link.Delay == 0 {
		link.Delay = lan + time.Duration(r.Rand.Int64N(int64(lan)))
	}
	c := r.NewClient(r.image, window, link)
	r.clients = append(r.clients, c)
	return c
}

// copy adds clients that copy the whole image.
func (r *room) copy(n int, link Link) {
	for range n {
		r.join(link).Copy()
	}
}

// elapsed is the virtual time since the room was made.
func (r *room) elapsed() time.Duration { return r.Now().Sub(r.start) }

// sent is what the servers' ports sent, in images.
func (r *room) sent() float64 {
	n := uint64(0)
	for _, s := range r.servers {
		n += s.SentBytes
	}
	return float64(n) / float64(r.image.desc.Size)
}

// wait lets virtual time pass.
func (r *room) wait(d time.Duration) { r.Run(d, func() bool { return false }) }

// until runs the world until done, and fails the test if that takes longer than limit.
func (r *room) until(limit time.Duration, what string, done func() bool) {
	r.t.Helper()
	if !r.Run(limit, done) {
		for _, c := range r.clients[:min(len(r.clients), 10)] {
			if c.Left > 0 {
				r.t.Log(c)
			}
		}
		for _, s := range r.servers {
			r.t.Logf("server %v: %+v", s.Addr.Addr(), s.Sender.Stats())
		}
		r.t.Fatalf("not in %v: %s", limit, what)
	}
}

// finish waits until every client has the whole image, and checks what holds at the end of every scenario.
func (r *room) finish(limit time.Duration) {
	r.t.Helper()
	r.until(limit, "every client has the image", func() bool {
		for _, c := range r.clients {
			if c.Left > 0 {
				return false
			}
		}
		return true
	})
	r.settled()
}

// settled checks that nothing goes on once nobody wants anything: no repair without end, no block that somebody still waits for.
func (r *room) settled() {
	r.t.Helper()
	r.wait(10 * time.Second) // what was asked of one server and came from another is sent all the same
	before := make([]uint64, len(r.servers))
	for i, s := range r.servers {
		before[i] = s.Sender.Stats().Symbols
	}
	r.wait(5 * time.Second)
	for i, s := range r.servers {
		if n := s.Sender.Stats().Symbols - before[i]; n > 0 {
			r.t.Errorf("server %d sent %d symbols that nobody waits for", i+1, n)
		}
	}
	for _, c := range r.clients {
		if c.Receiver.Waiting() > 0 {
			r.t.Errorf("waits for ever: %v", c)
		}
	}
}

// reader reads blocks in order, one at a time and with read-ahead, as an application on a file system does.
type reader struct {
	client  *Client
	next    uint32
	end     uint32
	ahead   uint32        // blocks that it asks for beforehand
	think   time.Duration // between two reads
	asked   time.Time
	longest time.Duration // that a read took
	at      uint32        // block of it
}

// read starts a reader of all blocks at a client.
func (r *room) read(c *Client, ahead uint32, think time.Duration) *reader {
	d := &reader{client: c, end: r.image.Total(), ahead: ahead, think: think}
	before := c.OnBlock
	c.OnBlock = func(block uint32) {
		if before != nil {
			before(block)
		}
		if block == d.next && !d.asked.IsZero() {
			d.got()
		}
	}
	d.ask()
	return d
}

func (d *reader) done() bool { return d.next == d.end }

func (d *reader) ask() {
	d.asked = d.client.world.Now()
	if d.client.Have[d.next] {
		d.got()
		return
	}
	// What is needed next goes first into the datagram.
	for b := d.next + 1; b < min(d.next+1+d.ahead, d.end); b++ {
		if !d.client.Have[b] {
			d.client.Receiver.Want(d.asked, b, wire.ReadAhead)
		}
	}
	d.client.Read(d.next, wire.Demand)
}

func (d *reader) got() {
	if took := d.client.world.Now().Sub(d.asked); took > d.longest {
		d.longest, d.at = took, d.next
	}
	d.asked = time.Time{}
	d.next++
	if !d.done() {
		d.client.world.After(d.think, d.ask)
	}
}
