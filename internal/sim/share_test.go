package sim

import (
	"fmt"
	"testing"
	"time"
)

// Frames and headers make a symbol of 1442 bytes one of 1514 on the wire.
const overhead = 1514.0 / 1442

// A client that has found only one of them asks it for what the others ask of the other. That may be a window's worth, half of 4 MiB,
// but no more.
func TestTwoServersShareOneTransmission(t *testing.T) {
	for _, c := range []struct {
		loss float64
		most float64 // images
	}{
		{0.01, 1.25},
		{0.05, 1.35},
		{0.20, 1.85},
	} {
		t.Run(fmt.Sprintf("%v %% lost", c.loss*100), func(t *testing.T) {
			seeds(t, 3, func(t *testing.T, seed uint64) {
				r := newRoom(t, seed, 16<<20, 64<<10)
				r.serve()
				r.serve()
				r.copy(10, Link{Loss: c.loss})
				r.finish(30 * time.Second)
				t.Logf("sent %.3f images", r.sent())
				if r.sent() > c.most {
					t.Errorf("sent %.3f images, %.3f at most", r.sent(), c.most)
				}
			})
		})
	}
}

func TestClientsShareOneTransmission(t *testing.T) {
	for _, c := range []struct {
		clients int
		loss    float64
		size    int64
		most    float64 // that the server's port may send, in images, but for what went out before the last client found it
		seeds   uint64
	}{
		{1, 0, 4 << 20, 1.06, 1},
		{1, 0.01, 4 << 20, 1.08, 5},
		{1, 0.02, 4 << 20, 1.10, 5},
		{1, 0.10, 4 << 20, 1.21, 10},
		{1, 0.20, 4 << 20, 1.39, 10},
		{10, 0, 16 << 20, 1.06, 1},
		{10, 0.01, 4 << 20, 1.11, 10},
		{10, 0.02, 4 << 20, 1.14, 10},
		{10, 0.10, 4 << 20, 1.32, 16},
		{10, 0.20, 4 << 20, 1.55, 16},
		{1000, 0, 2 << 20, 1.3, 1},
		{1000, 0.01, 4 << 20, 1.8, 1},
	} {
		t.Run(fmt.Sprintf("%d clients, %v %% lost", c.clients, c.loss*100), func(t *testing.T) {
			seeds(t, c.seeds, func(t *testing.T, seed uint64) {
				r := newRoom(t, seed, c.size, 64<<10)
				r.serve()
				link := Link{Loss: c.loss}
				if c.clients == 1000 {
					link.Delay = lan // the same for all is cheaper to simulate
				}
				r.copy(c.clients, link)
				for _, client := range r.clients {
					r.until(30*time.Second, "a client knows the server", func() bool { return len(client.Receiver.Replicas(r.Now())) > 0 })
				}
				late := r.sent()
				r.finish(30 * time.Second)
				var last time.Duration
				for _, client := range r.clients {
					last = max(last, client.Done.Sub(r.start))
				}
				st := r.servers[0].Sender.Stats()
				alone := time.Duration(float64(c.size) * 8 * overhead / port * float64(time.Second))
				t.Logf("sent %.3f images (data %.3f), %.3f before the last client joined, in %v, %.2f of the rate of the port; %+v",
					r.sent(), float64(st.Bytes)/float64(c.size), late, last, float64(alone)/float64(last), st)
				if r.sent() > c.most+late {
					t.Errorf("sent %.3f images, %.3f at most", r.sent(), c.most+late)
				}
			})
		})
	}
}
