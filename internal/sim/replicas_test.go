package sim

import (
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// Each server has a port of its own, and the client's is wide: several servers bring as much more.
func TestServersBringTheirPortsTogether(t *testing.T) {
	for _, how := range []struct {
		name  string
		read  func(r *room, c *Client)
		least map[int]float64 // throughput, in those of one server
	}{
		{"copied", func(_ *room, c *Client) { c.Copy() }, map[int]float64{2: 1.9, 4: 3.6}},
		{"read in order", (*room).readInOrder, map[int]float64{2: 1.95, 4: 3.8}},
	} {
		t.Run(how.name, func(t *testing.T) {
			seeds(t, 3, func(t *testing.T, seed uint64) {
				took := map[int]time.Duration{}
				for _, servers := range []int{1, 2, 4} {
					r := newRoom(t, seed, 64<<20, 64<<10)
					for range servers {
						r.serve()
					}
					c := r.join(Link{})
					r.until(time.Second, "the client knows all servers", func() bool { return len(c.Receiver.Replicas(r.Now())) == servers })
					began := r.Now()
					how.read(r, c)
					r.finish(time.Minute)
					took[servers] = c.Done.Sub(began)
				}
				for servers, least := range how.least {
					throughput := took[1].Seconds() / took[servers].Seconds()
					t.Logf("%d servers: %v instead of %v: %.2f times the throughput", servers, took[servers], took[1], throughput)
					if throughput < least {
						t.Errorf("%d servers have %.2f times the throughput of one, %.2f at least", servers, throughput, least)
					}
				}
			})
		})
	}
}

// readInOrder reads the image from start to end with a window of read-ahead.
func (r *room) readInOrder(c *Client) {
	next := uint32(0)
	more := func() {
		if next < c.image.Total() {
			c.Read(next, wire.ReadAhead)
			next++
		}
	}
	c.OnBlock = func(uint32) { more() }
	for range window / r.image.desc.BlockSize {
		more()
	}
}
