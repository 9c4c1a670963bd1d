package sim

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var (
	lossSize   = flag.Int64("loss-size", 16, "MiB that are copied where symbols are lost")
	lossCourse = flag.Bool("loss-course", false, "tell of each step of these copies")
)

// copied is what it cost to bring an image to eight clients.
type copied struct {
	took  time.Duration // until the last has it
	sent  float64       // images that passed the bottleneck, headers and control datagrams to the clients included
	used  float64       // of the bottleneck, until it was hardly used any more
	idle  time.Duration // from then to the end
	wants float64       // datagrams from all clients for a block
}

func (c copied) String() string {
	return fmt.Sprintf("%v, %.3f images sent, %.3f of the link used, %v at the end with hardly anything to send, %.1f WANTs for a block",
		c.took.Round(time.Millisecond), c.sent, c.used, c.idle.Round(time.Millisecond), c.wants)
}

// copyThrough lets eight clients copy an image by a link of 200 Mbit/s: a trunk with a queue, or the server's own port, which makes the
// server wait.
func copyThrough(t *testing.T, seed uint64, queue time.Duration, link Link) copied {
	const rate, clients, step = 200e6, 8, 5 * time.Millisecond
	r := newRoom(t, seed, *lossSize<<20, 64<<10)
	passed := func() float64 { return r.sent() * float64(r.image.desc.Size) }
	server := Link{Rate: rate, Delay: lan}
	if queue > 0 {
		server.Rate = 10e9
		link.Trunk = NewTrunk(rate, queue)
		passed = func() float64 { return float64(link.Trunk.Passed) }
	}
	s := r.serveOver(server)
	r.copy(clients, link)
	left := func() bool {
		for _, c := range r.clients {
			if c.Left > 0 {
				return false
			}
		}
		return true
	}
	var busy time.Duration // until when
	var before, busyBytes float64
	for !r.Run(step, left) {
		if r.elapsed() > time.Minute {
			r.until(0, "every client has the image", left)
		}
		now := passed()
		if now-before > 0.75*rate/8*step.Seconds() {
			busy, busyBytes = r.elapsed(), now
		}
		if *lossCourse {
			st := s.Sender.Stats()
			t.Logf("%v: %.3f of the link, rate %.1f, %d queued, %d blocks, %d parity, %d repairs", r.elapsed(), (now-before)*8/rate/step.Seconds(),
				float64(st.Rate)/1e6, st.Queued, st.Blocks, st.Parity, st.Repairs)
		}
		before = now
	}
	c := copied{
		took: r.elapsed(), sent: passed() / float64(r.image.desc.Size), used: busyBytes * 8 / rate / busy.Seconds(), idle: max(r.elapsed()-busy, 0),
	}
	for _, client := range r.clients {
		c.wants += float64(client.Receiver.Stats().Wants) / float64(r.image.Total())
	}
	r.settled()
	return c
}

// What is lost costs about as much as the best code over one block would have to send for it, and no more: that bound is 0.967, 0.949,
// 0.840 and 0.728 for losses that are independent, if perfect questions were asked and answered in no time, and 0.87, 0.67 and 0.55 for
// those in rows.
func TestGoodputWhereSymbolsAreLost(t *testing.T) {
	for _, path := range []struct {
		name  string
		queue time.Duration
	}{{"its own port", 0}, {"a trunk with a queue of 20 ms", 20 * time.Millisecond}} {
		t.Run(path.name, func(t *testing.T) {
			seeds(t, 2, func(t *testing.T, seed uint64) {
				whole := copyThrough(t, seed, path.queue, Link{})
				t.Logf("without loss: %v", whole)
				for _, c := range []struct {
					loss, burst float64
					least       float64 // of the goodput without loss
				}{
					{0.01, 0, 0.95},
					{0.02, 0, 0.92},
					{0.1, 0, 0.78},
					{0.2, 0, 0.65},
					{0.02, 8, 0.8},
					{0.1, 8, 0.6},
					{0.2, 8, 0.45},
				} {
					torn := copyThrough(t, seed, path.queue, Link{Loss: c.loss, Burst: c.burst})
					goodput := whole.took.Seconds() / torn.took.Seconds()
					t.Logf("%v lost, %v in a row: goodput %.3f of that; %v", c.loss, c.burst, goodput, torn)
					if goodput < c.least {
						t.Errorf("%v lost, %v in a row: goodput %.3f, %v at least", c.loss, c.burst, goodput, c.least)
					}
				}
			})
		})
	}
}
