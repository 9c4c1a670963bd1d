//go:build linux

package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

func TestCopySaysWithinThreeSecondsWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1})
	start := time.Now()
	p := r.dnbd("c1", "copy", "film1024", "null:")
	p.await(p.err, "waiting for image film1024")
	took := time.Since(start)
	t.Logf("after %v: %s", took, p.err)
	for _, word := range []string{"239.0.0.1", "10810", "eth0", "nothing was heard"} {
		if !strings.Contains(p.err.String(), word) {
			t.Errorf("it does not say %q", word)
		}
	}
	if took > 3*time.Second {
		t.Error("want it within 3 s")
	}
	// And it goes on when there is a server.
	r.serve("s1", film(t, mib))
	p.succeed()
}

func TestTheIOTimeoutTurnsWaitingIntoEIOAndTheDeviceRecovers(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1, ServerRate: 200e6})
	image := film(t, 16*mib)
	server := r.serve("s1", image)
	a := r.attach("c1", "film16384", "--io-timeout", "1s")
	if err := (&walk{to: mib}).run(a.device, image); err != nil {
		t.Fatal(err)
	}
	server.kill()
	start := time.Now()
	out, err := exec.Command("dd", "if="+a.device, "of=/dev/null", "bs=64K", "skip=200", "count=1", "iflag=direct").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Input/output error") {
		t.Fatalf("dd without a server: %v: %s", err, out)
	}
	t.Logf("dd failed after %v", time.Since(start))
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the read failed after %v, want about 1 s", took)
	}
	r.serve("s1", image)
	a.await(a.out, "") // it still runs
	// The device may know for a moment only the server that is gone.
	for deadline := time.Now().Add(patience); ; {
		if err = (&walk{from: 8 * mib}).run(a.device, image); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the device does not work again: %v", err)
		}
	}
}
