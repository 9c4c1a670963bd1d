//go:build linux

package e2e

import (
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

func TestAnIPv6GroupWorksLikeAnIPv4Group(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 2, ServerRate: 200e6})
	image := film(t, 16*mib)
	sent := r.sent("s1")
	for _, path := range r.copyTogether("dnbd://[ff15::d4bd]/film16384", func() {
		r.serve("s1", "--group", "ff15::d4bd", image)
	}) {
		if err := compare(path, image); err != nil {
			t.Error(err)
		}
	}
	wantOnce(t, sent(), size(t, image), 1.15)
}

func TestAClientOfOneImageIsNotSentTheOther(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 2, ServerRate: 200e6})
	one, two := film(t, mib), film(t, 16*mib)
	r.serve("s1", one, two)
	idle := r.attach("c1", "film1024")
	if err := compare(idle.device, one); err != nil {
		t.Error(err)
	}
	// The switch floods until it has waited for answers to its first query.
	for deadline := time.Now().Add(patience); ; {
		received := r.received("c1")
		r.dnbd("c2", "copy", "film16384", r.path("c2")).succeed()
		if err := compare(r.path("c2"), two); err != nil {
			t.Error(err)
		}
		n := received()
		t.Logf("while 16 MiB were sent to c2, c1 received %d KiB", n>>10)
		if n < mib {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("want less than 1 MiB: it has not asked for that image")
		}
	}
}
