//go:build linux

package e2e

import (
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// TestADeviceWithoutAServerCanBeDetached has readers wait for a server that is gone for good: they are named, and when they have been
// killed the device goes, although the kernel lets no process end before its read does.
func TestADeviceWithoutAServerCanBeDetached(t *testing.T) {
	for name, flag := range map[string]string{"through the page cache": "", "direct": "iflag=direct"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, lab.Options{Clients: 1})
			server := r.serve("s1", film(t, mib))
			a := r.attach("c1", "film1024")
			server.kill()
			args := []string{"if=" + a.device, "of=/dev/null", "bs=64K", "count=1", "skip=8"}
			if flag != "" {
				args = append(args, flag)
			}
			reader := r.start("c1", "dd", args...)
			a.await(a.err, "waiting for film1024")
			if said := r.dnbd("c1", "detach", a.device).fail(1); !strings.Contains(said, "dd (pid ") {
				t.Errorf("detach says %q, want it to name the reader", said)
			}
			reader.cmd.Process.Kill()
			r.dnbd("c1", "detach", a.device).succeed()
			r.leftDevice(a.device)
			a.wait()
			reader.wait()
		})
	}
}

// TestAReaderOfAnAttachmentThatIsKilledEnds has a reader wait for a server that is gone when the client is killed too.
func TestAReaderOfAnAttachmentThatIsKilledEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1})
	image := film(t, mib)
	server := r.serve("s1", image)
	a := r.attach("c1", "film1024")
	server.kill()
	reader := r.start("c1", "dd", "if="+a.device, "of=/dev/null", "bs=64K", "count=1", "skip=8", "iflag=direct")
	a.await(a.err, "waiting for film1024")
	a.kill()
	if said := reader.fail(1); !strings.Contains(said, "Input/output error") {
		t.Errorf("the reader says %q, want an I/O error", said)
	}
	r.serve("s1", image)
	if err := compare(r.attach("c1", "film1024").device, image); err != nil {
		t.Error(err)
	}
}
