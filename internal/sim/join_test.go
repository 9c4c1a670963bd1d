package sim

import (
	"slices"
	"testing"
	"time"
)

// Whoever joins late makes the server send again what went out before. A client needs two questions and two answers to join, and any of
// them may be lost.
func TestAServerIsSoonFoundWhereMuchIsLost(t *testing.T) {
	for _, c := range []struct {
		name                   string
		loss                   float64
		most, nearlyAll, every time.Duration // by when 9 of 10 clients know the server, 99 of 100, and all
	}{
		{"nothing lost", 0, time.Millisecond, time.Millisecond, time.Millisecond},
		{"10 % lost, both ways", 0.10, 20 * time.Millisecond, 80 * time.Millisecond, 500 * time.Millisecond},
		{"20 % lost, both ways", 0.20, 50 * time.Millisecond, 200 * time.Millisecond, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			var found []time.Duration
			for seed := range uint64(1000) {
				r := newRoom(t, seed, 1<<20, 64<<10)
				r.serveOver(Link{Rate: port, Delay: lan, Loss: c.loss})
				client := r.join(Link{Loss: c.loss})
				r.until(time.Minute, "the client knows the server", func() bool { return len(client.Receiver.Replicas(r.Now())) > 0 })
				found = append(found, r.elapsed())
			}
			slices.Sort(found)
			most, nearlyAll, every := found[900], found[990], found[999]
			t.Logf("90 %% after %v, 99 %% after %v, all after %v", most, nearlyAll, every)
			if most > c.most || nearlyAll > c.nearlyAll || every > c.every {
				t.Errorf("later than %v, %v, %v", c.most, c.nearlyAll, c.every)
			}
		})
	}
}
