//go:build linux

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

// TestAGroupAndTCPShareALink copies an image over a link that a TCP flow from another host fills, too. The proportions are the
// simulator's to check; here real sockets and the kernel's TCP get along at all. It does not run beside others, which would make packets late.
func TestAGroupAndTCPShareALink(t *testing.T) {
	const (
		rate  = 50_000_000
		queue = rate / 8 / 10 // 100 ms
	)
	for _, c := range []struct {
		first   string
		clients int // each with a port of its own; TCP shares that of the first
	}{
		{"TCP", 1},
		{"the group", 1},
		{"the group", 2},
	} {
		t.Run(fmt.Sprintf("%s is first, %d clients", c.first, c.clients), func(t *testing.T) {
			r := newRig(t, lab.Options{Servers: 2, Clients: c.clients, ClientRate: rate})
			for _, host := range r.lab.Clients() {
				if err := r.lab.SetDownQueue(host, queue); err != nil {
					t.Fatal(err)
				}
			}
			for _, s := range r.lab.Servers() {
				if err := r.lab.GSO(s, false); err != nil {
					t.Fatal(err)
				}
			}
			image := film(t, 32*mib)
			r.serve("s1", image)
			received := r.received("c1")
			fill := func(bytes int64) {
				for deadline := time.Now().Add(patience); received() < bytes; {
					if time.Now().After(deadline) {
						t.Fatalf("of %d bytes %d came", bytes, received())
					}
				}
			}
			var flow *lab.Flow
			start := func() {
				var err error
				if flow, err = r.lab.StartFlow("s2", "c1"); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(flow.Close)
			}
			if c.first == "TCP" {
				start()
				fill(4 * mib)
			}
			copying := r.dnbd("c1", "copy", "film32768", r.path("copy"))
			for _, host := range r.lab.Clients()[1:] {
				r.dnbd(host, "copy", "film32768", r.path(host))
			}
			if c.first != "TCP" {
				fill(4 * mib)
				start()
			}
			all, tcp := r.received("c1"), flow.Received()
			began := time.Now()
			copying.succeed()
			tcp = flow.Received() - tcp
			total, took := all(), time.Since(began)
			flow.Close()
			share := float64(tcp) * 1514 / 1448 / float64(total)
			t.Logf("TCP has %.2f of what passed, the group the rest; %.2f of the link was used for %v", share,
				float64(total)*8/rate/took.Seconds(), took)
			if share < 0.05 || share > 0.95 {
				t.Error("want a twentieth for each at least")
			}
			if err := compare(r.path("copy"), image); err != nil {
				t.Error(err)
			}
		})
	}
}
