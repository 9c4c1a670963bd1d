//go:build linux

package e2e

import (
	"syscall"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

// TestWithoutAMulticastRouteADeviceReadsOverNBD reads from two servers, one of which goes away on the way, on a host that multicast
// cannot leave or reach.
func TestWithoutAMulticastRouteADeviceReadsOverNBD(t *testing.T) {
	for name, end := range map[string]func(*process){
		"killed":  (*process).kill,
		"stopped": func(p *process) { p.signal(syscall.SIGSTOP) },
		"ended":   (*process).stop,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, lab.Options{Servers: 2, Clients: 1, ServerRate: 100e6})
			if out, err := r.command("c1", "ip", "route", "del", "224.0.0.0/4").CombinedOutput(); err != nil {
				t.Fatalf("ip route: %v: %s", err, out)
			}
			if out, err := r.command("c1", "ip", "link", "set", "eth0", "multicast", "off").CombinedOutput(); err != nil {
				t.Fatalf("ip link: %v: %s", err, out)
			}
			if err := r.lab.Deafen("c1"); err != nil {
				t.Fatal(err)
			}
			image := film(t, 16*mib)
			first := r.serve("s1", "--id", "1", "--nbd", ":10809", image)
			r.serve("s2", "--id", "2", "--nbd", ":10809", image)
			a := r.attach("c1", "film16384", "--unicast", r.lab.Addr("s1").String(), "--unicast", r.lab.Addr("s2").String())
			w := walk{after: func(off int64) {
				if off == 4*mib {
					end(first)
				}
			}}
			if err := w.run(a.device, image); err != nil {
				t.Fatal(err)
			}
			t.Logf("the longest read took %v", w.longest)
			if w.longest > 5*time.Second { // a tenth of a second, but the machine may be busy
				t.Error("want 5 s at most")
			}
		})
	}
}

func TestAServerThatNeedsTLSIsReadWithIt(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	r := newRig(t, lab.Options{Clients: 1})
	image := film(t, 4*mib)
	for _, line := range [][]string{
		{
			"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=server", "-addext",
			"subjectAltName=IP:" + r.lab.Addr("s1").String(), "-keyout", r.path("key"), "-out", r.path("cert"),
		},
	} {
		r.start("s1", "openssl", line...).succeed()
	}
	if err := r.lab.Deafen("c1"); err != nil {
		t.Fatal(err)
	}
	r.serve("s1", "--nbd", ":10809", "--tls", "required", "--tls-cert", r.path("cert"), "--tls-key", r.path("key"), image)
	r.dnbd("c1", "copy", "--tls-ca", r.path("cert"), "film4096", r.path("copy")).succeed()
	if err := compare(r.path("copy"), image); err != nil {
		t.Error(err)
	}
	// Told of no authority it does not trust that one, and does not read without TLS.
	stranger := r.dnbd("c1", "copy", "film4096", r.path("other"))
	stranger.await(stranger.err, "certificate")
	stranger.signal(syscall.SIGTERM)
	stranger.fail(1)
}
