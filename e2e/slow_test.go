//go:build linux

package e2e

import (
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// TestAClientBehindASlowPortReadsOverNBD copies to a client whose port has a tenth of the server's rate, and to three others.
func TestAClientBehindASlowPortReadsOverNBD(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 4, ServerRate: 200e6})
	image := film(t, 64*mib)
	if err := r.lab.SetDownRate("c1", 20e6); err != nil {
		t.Fatal(err)
	}
	// On one host what waits at a port may count against the write buffer of whoever sent it, if that port was served last: the server would
	// wait for the slow port, as it would not where there is a wire between.
	if err := r.lab.SetDownQueue("c1", 256<<10); err != nil {
		t.Fatal(err)
	}
	r.serve("s1", "--nbd", ":10809", image)
	sent := r.sent("s1")
	var copies []*process
	for _, c := range r.lab.Clients() {
		copies = append(copies, r.dnbd(c, "copy", "film65536", r.path(c)))
	}
	for _, c := range copies[1:] {
		c.succeed()
	}
	// The image, what the slow one asked for again before it left, and what it read over NBD.
	ratio := float64(sent()) / float64(size(t, image))
	t.Logf("the server's port carried %.3f times the image until three clients had it", ratio)
	if ratio > 1.4 {
		t.Error("want at most 1.4 times the image: the slow client is to leave")
	}
	copies[0].succeed()
	for i, c := range copies {
		if err := compare(r.path(r.lab.Clients()[i]), image); err != nil {
			t.Error(err)
		}
		const said = "the group is faster than this machine's link"
		if got := strings.Contains(c.err.String(), said); got != (i == 0) {
			t.Errorf("%s: says that %s: %v\n%s", c.what, said, got, c.err)
		}
	}
}
