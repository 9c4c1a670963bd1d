//go:build linux

package e2e

import (
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
	for _, first := range []string{"TCP", "the group"} {
		t.Run(first+" is first", func(t *testing.T) {
			r := newRig(t, lab.Options{Servers: 2, Clients: 1, ClientRate: rate})
			if err := r.lab.SetDownQueue("c1", queue); err != nil {
				t.Fatal(err)
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
			if first == "TCP" {
				start()
				fill(4 * mib)
			}
			copying := r.dnbd("c1", "copy", "film32768", r.path("copy"))
			if first != "TCP" {
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
