//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// TestDNBDsOwnFlagsWork goes through what users of DNBD did: serve, bind, add a cache while it runs, unbind.
func TestDNBDsOwnFlagsWork(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	r := newRig(t, lab.Options{Servers: 2, Clients: 1})
	image := film(t, 16*mib)
	server, client := filepath.Join(shared.dir, "dnbd-server"), filepath.Join(shared.dir, "dnbd-client")
	one := r.start("s1", server, "-m", "239.0.0.1", "-d", image, "-i", "3")
	one.await(one.out, "control ")
	two := r.start("s2", server, "--mcast", "239.0.0.1", "--device", image, "--id", "7", "--threads", "2")
	two.await(two.out, "control ")

	device, cache := filepath.Join(r.dev, "dnbd0"), r.path("cache")
	if err := os.WriteFile(cache, make([]byte, 32*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if said := r.start("c1", client, "-d", device, "-b", "239.0.0.1").succeed(); said != "server 3\nserver 7\n" {
		t.Errorf("bind says %q, want the ids of the servers found", said)
	}
	r.start("c1", client, "-d", device, "-c", cache).succeed()
	if err := compare(device, image); err != nil {
		t.Error(err)
	}
	r.start("c1", client, "-d", device, "-u").succeed()
	r.leftDevice(device)
	if said := r.dnbd("c1", "cache", "info", cache).succeed(); !strings.Contains(said, "32 MiB") {
		t.Errorf("the cache that was added says %q, want its capacity of 32 MiB", said)
	}

	// With the long flags, and the cache from the start: it has it all, and the servers send next to nothing.
	sent := []func() int64{r.sent("s1"), r.sent("s2")}
	r.start("c1", client, "--device", device, "--bind", "239.0.0.1", "--cache", cache).succeed()
	if err := compare(device, image); err != nil {
		t.Error(err)
	}
	if n := sent[0]() + sent[1](); n > mib {
		t.Errorf("the servers sent %d bytes to a client with a full cache", n)
	}
	r.start("c1", client, "--device", device, "--unbind").succeed()
	r.leftDevice(device)
	one.stop()
	two.stop()
}

func TestDNBDsProgramsPrintTheirUsage(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	for _, program := range []string{"dnbd-server", "dnbd-client"} {
		said := r.start("s1", filepath.Join(shared.dir, program)).fail(2)
		if !strings.Contains(said, "Usage") || !strings.Contains(said, "--device") {
			t.Errorf("%s says %q, want its usage", program, said)
		}
	}
}
