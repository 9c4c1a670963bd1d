//go:build linux

package e2e

import (
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

func TestAReadWaitsForAServerThatIsKilledAndGoesOnWithTheNext(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1, ServerRate: 100e6})
	image := film(t, 16*mib)
	server := r.serve("s1", image)
	a := r.attach("c1", "film16384")
	begun := make(chan struct{})
	w := walk{after: func(off int64) {
		if off == 4*mib {
			close(begun)
		}
	}}
	read := inBackground(func() error { return w.run(a.device, image) })
	<-begun
	server.kill()
	a.await(a.err, "waiting for film16384")
	r.serve("s1", image)
	if err := read.wait(); err != nil {
		t.Error(err)
	}
	a.await(a.err, "reading goes on")
}

func TestAReadWaitsForAServerThatIsStoppedAndGoesOnWithIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1, ServerRate: 100e6})
	image := film(t, 16*mib)
	server := r.serve("s1", image)
	a := r.attach("c1", "film16384")
	begun := make(chan struct{})
	w := walk{after: func(off int64) {
		if off == 4*mib {
			close(begun)
		}
	}}
	read := inBackground(func() error { return w.run(a.device, image) })
	<-begun
	server.signal(syscall.SIGSTOP)
	a.await(a.err, "waiting for film16384")
	server.signal(syscall.SIGCONT)
	if err := read.wait(); err != nil {
		t.Error(err)
	}
}

func TestACacheFileServesAfterTheClientWasKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1})
	image := film(t, 16*mib)
	r.serve("s1", image)
	flags := []string{"--cache", r.path("cache"), "--cache-size", "32MiB"}
	a := r.attach("c1", "film16384", flags...)
	if err := compare(a.device, image); err != nil {
		t.Fatal(err)
	}
	a.kill()

	sent := r.sent("s1")
	a = r.attach("c1", "film16384", flags...)
	if err := compare(a.device, image); err != nil {
		t.Error(err)
	}
	n := sent()
	t.Logf("the server sent %d KiB to a client that had 16 MiB in its cache", n>>10)
	// What was being written when the client was killed may be missing.
	if n > mib {
		t.Error("want less than 1 MiB")
	}
}

// TestAnAttachmentThatWasKilledIsCleanedUp attaches the same device again in the one case, and detaches it in the other.
func TestAnAttachmentThatWasKilledIsCleanedUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1})
	image := film(t, mib)
	r.serve("s1", image)
	a := r.attach("c1", "film1024")
	a.kill()
	again := r.attach("c1", "film1024")
	if err := compare(again.device, image); err != nil {
		t.Error(err)
	}
	again.kill()
	r.dnbd("c1", "detach", again.device).succeed()
	r.leftDevice(again.device)
}
