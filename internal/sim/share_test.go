package sim

import (
	"fmt"
	"testing"
	"time"
)

// Frames and headers make a symbol of 1442 bytes one of 1514 on the wire.
const overhead = 1514.0 / 1442

func TestClientsShareOneTransmission(t *testing.T) {
	for _, c := range []struct {
		clients int
		loss    float64
		size    int64
		most    float64 // that the servers' ports may send, in images
	}{
		{1, 0, 16 << 20, 1.055},
		{1, 0.01, 16 << 20, 1.09},
		{1, 0.02, 16 << 20, 1.11},
		{1, 0.10, 16 << 20, 1.25},
		{1, 0.20, 16 << 20, 1.50},
		{10, 0, 16 << 20, 1.06},
		{10, 0.01, 16 << 20, 1.13},
		{10, 0.02, 16 << 20, 1.17},
		{10, 0.10, 16 << 20, 1.40},
		{10, 0.20, 16 << 20, 1.75},
		{1000, 0, 2 << 20, 1.5},
		{1000, 0.01, 4 << 20, 2},
	} {
		t.Run(fmt.Sprintf("%d clients, %v %% lost", c.clients, c.loss*100), func(t *testing.T) {
			n := uint64(2)
			if c.clients == 1000 {
				n = 1
			}
			seeds(t, n, func(t *testing.T, seed uint64) {
				r := newRoom(t, seed, c.size, 64<<10)
				r.serve()
				link := Link{Loss: c.loss}
				if c.clients == 1000 {
					link.Delay = lan // the same for all is cheaper to simulate
				}
				r.copy(c.clients, link)
				r.finish(30 * time.Second)
				var last time.Duration
				for _, client := range r.clients {
					last = max(last, client.Done.Sub(r.start))
				}
				st := r.servers[0].Sender.Stats()
				alone := time.Duration(float64(c.size) * 8 * overhead / port * float64(time.Second))
				t.Logf("sent %.3f images (data %.3f) in %v, %.2f of the rate of the port; %+v", r.sent(), float64(st.Bytes)/float64(c.size),
					last, float64(alone)/float64(last), st)
				if r.sent() > c.most {
					t.Errorf("sent %.3f images, %.3f at most", r.sent(), c.most)
				}
			})
		})
	}
}
