package sim

import (
	"fmt"
	"testing"
	"time"
)

// Each client has a port of its own here, and TCP shares that of one of them. Of two clients the worse one counts, so that the rate leaves TCP
// room. Of more it is one among many: it is told, leaves the group, and reads by TCP.
func TestTCPBehindThePortOfOneClientIsNotStarved(t *testing.T) {
	const rate = 100e6
	for _, c := range []struct {
		clients int
		queue   time.Duration
		tcp     float64 // of its port that it has at least
		others  float64 // of theirs that the others have at least
	}{
		{2, 5 * time.Millisecond, 0.3, 0.2},
		{2, 50 * time.Millisecond, 0.3, 0.2},
		{3, 50 * time.Millisecond, 0.2, 0.95}, // it has little until the client is told, each time
		{8, 100 * time.Millisecond, 0.2, 0.95},
	} {
		t.Run(fmt.Sprintf("%d clients, %v", c.clients, c.queue), func(t *testing.T) {
			seeds(t, 2, func(t *testing.T, seed uint64) {
				r := newRoom(t, seed, 16<<20, 64<<10)
				s := r.serveOver(Link{Rate: 1e9, Delay: lan})
				var ports []*Trunk
				for range c.clients {
					port := NewTrunk(rate, c.queue)
					ports = append(ports, port)
					client := r.join(Link{Trunk: port})
					client.ReadFrom(s)
					client.Stream()
				}
				r.wait(time.Second)
				tcp := r.NewTCP(Link{Rate: 1e9, Delay: lan + time.Duration(r.Rand.Int64N(int64(lan)))}, Link{Delay: lan, Trunk: ports[0]})
				before := ports[1].Passed
				const run = 40 * time.Second // over which TCP and TCP get their shares
				first := r.clients[0]
				points := r.Course(ports[0], 3*time.Second, step, tcp)
				if many := c.clients > 2; (first.Leaves > 0) != many {
					t.Errorf("its client left the group %d times in 3 s", first.Leaves)
				}
				m := Mean(append(points, r.Course(ports[0], run-3*time.Second, step, tcp)...))
				others := float64(ports[1].Passed-before) * 8 / run.Seconds() / rate
				t.Logf("TCP has %.2f of the port, its client %.2f; %v waited on average; the others have %.2f of theirs; it left %d times",
					m.TCP/rate, m.Group/rate, m.Queue, others, first.Leaves)
				if m.TCP < c.tcp*rate {
					t.Error("TCP has too little")
				}
				if m.Group < 0.2*rate {
					t.Error("its client has too little")
				}
				if others < c.others {
					t.Error("the others are held")
				}
				for _, other := range r.clients[1:] {
					if other.Leaves > 0 {
						t.Error("another left the group")
					}
				}
			})
		})
	}
}
