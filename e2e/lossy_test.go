//go:build linux

package e2e

import (
	"encoding/json"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// TestClientsThatLoseDatagramsAreRepaired copies to a client behind a link that loses 5 %, to one that may not enlarge its receive
// buffers, and to one without troubles.
func TestClientsThatLoseDatagramsAreRepaired(t *testing.T) {
	t.Parallel()
	need(t, "setpriv")
	r := newRig(t, lab.Options{Clients: 3, ServerRate: 200e6})
	image := film(t, 16*mib)
	if err := r.lab.Loss("c1", 5); err != nil {
		t.Fatal(err)
	}
	r.serve("s1", image)
	sent := r.sent("s1")
	copies := []*process{
		r.dnbd("c1", "copy", "--json", "film16384", r.path("c1")),
		r.start("c2", "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin",
			shared.binary, "copy", "--json", "film16384", r.path("c2")),
		r.dnbd("c3", "copy", "--json", "film16384", r.path("c3")),
	}
	var repaired []int64
	for i, c := range copies {
		var report struct{ Bytes, Repaired int64 }
		if err := json.Unmarshal([]byte(c.succeed()), &report); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if report.Bytes != size(t, image) {
			t.Errorf("%s: reports %d bytes, want %d", c.what, report.Bytes, size(t, image))
		}
		repaired = append(repaired, report.Repaired)
		if err := compare(r.path(r.lab.Clients()[i]), image); err != nil {
			t.Error(err)
		}
	}
	ratio := float64(sent()) / float64(size(t, image))
	t.Logf("the server's port carried %.3f times the image; bytes repaired at c1 to c3: %d", ratio, repaired)
	if repaired[0] == 0 {
		t.Error("a client that lost 5 % has repaired nothing")
	}
	if ratio > 1.4 {
		t.Error("want at most 1.4 times the image: most losses are to be repaired by parity")
	}
}

func TestALateJoinerNeedsAgainOnlyWhatItMissed(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 2, ServerRate: 100e6})
	image := film(t, 16*mib)
	r.serve("s1", image)
	sent := r.sent("s1")
	a := r.attach("c1", "film16384")
	var late *process
	var missed int64
	w := walk{after: func(off int64) {
		if off == 4*mib {
			missed = sent()
			late = r.dnbd("c2", "copy", "film16384", r.path("c2"))
		}
	}}
	if err := w.run(a.device, image); err != nil {
		t.Error(err)
	}
	late.succeed()
	if err := compare(r.path("c2"), image); err != nil {
		t.Error(err)
	}
	n := sent()
	t.Logf("when the late one started %d KiB had been sent, in the end %d KiB", missed>>10, n>>10)
	// While it starts, and looks for the image, it misses some more: half a second is 6 MiB.
	if want := size(t, image)*107/100 + missed + 6*mib; n > want {
		t.Errorf("want at most %d KiB: the image, and once more what it missed", want>>10)
	}
}
