//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

func TestHalfOfTheRoomWithoutMulticastCopiesOverNBD(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 4, ServerRate: 400e6})
	image := film(t, 16*mib)
	for _, c := range []string{"c1", "c2"} {
		if err := r.lab.Deafen(c); err != nil {
			t.Fatal(err)
		}
	}
	r.serve("s1", "--nbd", ":10809", image)
	var copies []*process
	for _, c := range r.lab.Clients() {
		copies = append(copies, r.dnbd(c, "copy", "film16384", r.path(c)))
	}
	for i, c := range copies {
		c.succeed()
		if err := compare(r.path(r.lab.Clients()[i]), image); err != nil {
			t.Error(err)
		}
		const said = "no multicast data arrives"
		if got := strings.Contains(c.err.String(), said); got != (i < 2) {
			t.Errorf("%s: says that %s: %v\n%s", c.what, said, got, c.err)
		}
	}
}

func TestADeviceReadsOverNBDWhileMulticastIsCutAndReturnsToTheGroup(t *testing.T) {
	t.Parallel()
	need(t, "blockdev")
	r := newRig(t, lab.Options{Clients: 1, ServerRate: 200e6})
	image := film(t, 64*mib)
	r.serve("s1", "--nbd", ":10809", image)
	a := r.attach("c1", "film65536", "--cache-size", "1MiB")
	if err := (&walk{to: 4 * mib}).run(a.device, image); err != nil {
		t.Fatal(err)
	}
	if err := r.lab.Deafen("c1"); err != nil {
		t.Fatal(err)
	}
	cut := time.Now()
	if err := (&walk{from: 8 * mib, to: 24 * mib}).run(a.device, image); err != nil {
		t.Fatal(err)
	}
	t.Logf("16 MiB were read in %v from when multicast was cut", time.Since(cut))
	a.await(a.err, "reading over NBD")
	if err := r.lab.ClearDeafen("c1"); err != nil {
		t.Fatal(err)
	}
	// It asks the group again as long as something is read.
	for deadline := time.Now().Add(patience); !strings.Contains(a.err.String(), "reading from the group"); {
		if time.Now().After(deadline) {
			t.Fatalf("it does not return to the group:\n%s", a.err)
		}
		a.flush()
		if err := (&walk{from: 24 * mib}).run(a.device, image); err != nil {
			t.Fatal(err)
		}
	}
	if err := compare(a.device, image); err != nil {
		t.Error(err)
	}
}

func TestWithoutAnNBDPortADeafClientWaitsAndSaysWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1})
	image := film(t, mib)
	if err := r.lab.Deafen("c1"); err != nil {
		t.Fatal(err)
	}
	r.serve("s1", image)
	p := r.dnbd("c1", "copy", "film1024", r.path("copy"))
	p.await(p.err, "it has no NBD port that could be read from instead")
	if err := r.lab.ClearDeafen("c1"); err != nil {
		t.Fatal(err)
	}
	p.succeed()
	if err := compare(r.path("copy"), image); err != nil {
		t.Error(err)
	}
}
