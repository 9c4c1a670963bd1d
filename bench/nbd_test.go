//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dnbd/dnbd/nbd"
)

// zeros is a device without bytes of its own, whose reads fail with err.
type zeros struct{ err error }

const zerosSize = 1 << 20

func (zeros) Size() int64                                         { return zerosSize }
func (z zeros) ReadAt(_ context.Context, p []byte, _ int64) error { clear(p); return z.err }

// serveNBD serves a device under a name until the test ends.
func serveNBD(t *testing.T, name string, d nbd.Device) *nbdProcess {
	server, err := nbd.NewServer(nbd.ServerConfig{Exports: []nbd.Export{{Name: name, Device: d}}})
	if err != nil {
		t.Fatal(err)
	}
	address := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &nbdProcess{export: export{network: "unix", address: address}}
}

func TestManyConnectionsReadAndAreTimed(t *testing.T) {
	s := serveNBD(t, exportName, zeros{})
	l := nbdReader{connections: 5, depth: 8, block: 4096, size: zerosSize, during: 10 * time.Millisecond}
	g, err := l.run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if len(g.latencies) < l.connections*l.depth || g.seconds < l.during.Seconds() || g.perSecond() <= 0 {
		t.Errorf("%d reads in %v s", len(g.latencies), g.seconds)
	}
	if g.latencies[0] <= 0 || g.median() > g.longest() {
		t.Errorf("the shortest read took %v, the median one %v, the longest %v", g.latencies[0], g.median(), g.longest())
	}
	if !s.greets() {
		t.Error("the server does not greet")
	}
}

func TestWhatAServerRefusesOrFailsIsAnError(t *testing.T) {
	l := nbdReader{connections: 2, depth: 1, block: 4096, size: zerosSize}
	for want, s := range map[string]*nbdProcess{
		"refuses the export":         serveNBD(t, "other", zeros{}),
		"a read failed with error 5": serveNBD(t, exportName, zeros{syscall.EIO}),
	} {
		if _, err := l.run(t.Context(), s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want one that says %q", err, want)
		}
	}
}

func TestWhatIsAskedIsAskedAgainstTheHardest(t *testing.T) {
	// b is the best in one round, by luck, and c in two.
	a, b, c := &figure{samples: []float64{2, 2, 2}}, &figure{samples: []float64{1.5, 0.5, 1.5}}, &figure{samples: []float64{0.9, 1.1, 0.9}}
	if got := hardest([]*figure{a, b, c}, atLeast(1, 1)); got != c {
		t.Errorf("where more is better it is that of %v", got.samples)
	}
	if got := hardest([]*figure{a, b, c}, atMost(1, 1)); got != a {
		t.Errorf("where less is better it is that of %v", got.samples)
	}
}

func TestFiosReportIsUnderstood(t *testing.T) {
	var rep fioReport
	err := json.Unmarshal([]byte(`{"jobname": "load", "job_runtime": 500, "write": {"total_ios": 0},
		"read": {"total_ios": 20000, "runtime": 500, "lat_ns": {"min": 1, "percentile": {"50.000000": 25000, "99.000000": 90000}}}}`), &rep)
	if err != nil {
		t.Fatal(err)
	}
	if rep.total() != 20000 || rep.operations() != 40 || rep.latency() != 25 || rep.Milliseconds != 500 {
		t.Errorf("%v operations, %v thousand/s, %v µs in %v ms", rep.total(), rep.operations(), rep.latency(), rep.Milliseconds)
	}
}

func TestTheCertificatesAreForTheLoopbackAddress(t *testing.T) {
	dir := t.TempDir()
	if err := certify(dir); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server-cert.pem"), filepath.Join(dir, "server-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(filepath.Join(dir, "ca-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	for _, name := range []string{"127.0.0.1", "localhost"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnExportHasAURI(t *testing.T) {
	for want, e := range map[string]export{
		"nbd+unix:///disk?socket=/run/s":                      {network: "unix", address: "/run/s"},
		"nbd://127.0.0.1:10809/disk":                          {network: "tcp", address: "127.0.0.1:10809"},
		"nbds://127.0.0.1:10809/disk?tls-certificates=/run/c": {network: "tcp", address: "127.0.0.1:10809", tls: true},
	} {
		if got := e.uri("/run/c"); got != want {
			t.Errorf("the URI is %s, want %s", got, want)
		}
	}
}
