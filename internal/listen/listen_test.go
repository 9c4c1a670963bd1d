package listen

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAddressesReadBack(t *testing.T) {
	for in, want := range map[string]string{
		"localhost":           "localhost:10809",
		"localhost:1":         "localhost:1",
		"10.0.0.1":            "10.0.0.1:10809",
		":10810":              ":10810",
		"::":                  "[::]:10809",
		"[::1]":               "[::1]:10809",
		"[fe80::1%eth0]:7":    "[fe80::1%eth0]:7",
		"fe80::1%eth0":        "[fe80::1%eth0]:10809",
		"unix:/run/nbd.sock":  "unix:/run/nbd.sock",
		"unix:relative":       "unix:relative",
		"vsock:10809":         "vsock:10809",
		"vsock:4294967295":    "vsock:4294967295",
		"systemd":             "systemd",
		"systemd.example.org": "systemd.example.org:10809",
		"stdin":               "stdin",
		"stdin:10809":         "stdin:10809",
	} {
		a, err := Parse(in)
		if err != nil || a.String() != want {
			t.Errorf("Parse(%q) = %v, %v, want %s", in, a, err, want)
			continue
		}
		if b, err := Parse(a.String()); err != nil || b != a {
			t.Errorf("Parse(%q) = %v, %v, want %v", a, b, err, a)
		}
	}
}

func TestWhatIsNoAddressIsRefused(t *testing.T) {
	for _, in := range []string{
		"", "unix:", "vsock:", "vsock:x", "vsock:4294967296", "host:", "host:nbd", "host:65536", "host:-1", "a:b:c", "[::1", "http://x", "[]x",
	} {
		if a, err := Parse(in); err == nil || !strings.Contains(err.Error(), Forms) {
			t.Errorf("Parse(%q) = %v, %v, want an error that says how addresses are written", in, a, err)
		}
	}
}

// listen opens the sockets of an address until the test ends.
func listen(t *testing.T, address string) []net.Listener {
	t.Helper()
	a, err := Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	ls, err := a.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(ls) })
	return ls
}

func TestTCPListensAtIPv4AndIPv6(t *testing.T) {
	_, port, _ := net.SplitHostPort(listen(t, ":0")[0].Addr().String())
	for _, host := range []string{"127.0.0.1", "::1"} {
		if probe, err := net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
			t.Logf("%s is not there: %v", host, err)
			continue
		} else {
			_ = probe.Close()
		}
		conn, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Errorf("dial %s: %v", host, err)
			continue
		}
		_ = conn.Close()
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	addr := listen(t, "127.0.0.1:0")[0].Addr().String()
	a, err := Parse(addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Listen = %v, want an error that names %s and says that it is in use", err, addr)
	}
}

func TestAUnixSocketThatADeadProcessLeftIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	listen(t, "unix:"+path)

	a, err := Parse("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "another process listens there") {
		t.Errorf("Listen where somebody listens = %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err = Parse("unix:" + file); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("Listen at a file = %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

func TestWithoutAServiceManagerThereIsNothingToInherit(t *testing.T) {
	a, err := Parse("systemd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "LISTEN_FDS") {
		t.Errorf("Listen = %v", err)
	}
}

func TestNetworksReadAsTheyAreMeant(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "10.1.2.3": "10.1.2.3/32", "::1": "::1/128", "fd00::/8": "fd00::/8", "::ffff:10.0.0.1": "10.0.0.1/32",
	} {
		if p, err := ParsePrefix(in); err != nil || p.String() != want {
			t.Errorf("ParsePrefix(%q) = %v, %v, want %s", in, p, err, want)
		}
	}
	for _, in := range []string{"", "x", "10.0.0.1/8", "10.0.0.0/33", "10.0.0/8"} {
		if p, err := ParsePrefix(in); err == nil {
			t.Errorf("ParsePrefix(%q) = %v, want an error", in, p)
		}
	}
}

func TestClientsOfOtherNetworksAreTurnedAway(t *testing.T) {
	for _, c := range []struct {
		network string
		served  bool
	}{{"127.0.0.0/8", true}, {"10.0.0.0/8", false}} {
		var said bytes.Buffer
		l := Allow(listen(t, "127.0.0.1:0")[0], []netip.Prefix{netip.MustParsePrefix(c.network)}, slog.New(slog.NewTextHandler(&said, nil)))
		accepted := make(chan net.Conn, 1)
		go func() {
			conn, _ := l.Accept()
			accepted <- conn
		}()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if c.served {
			if theirs := <-accepted; theirs == nil {
				t.Errorf("network %s: not accepted", c.network)
			} else {
				_ = theirs.Close()
			}
			continue
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Logf("hung up on with %v", err)
		}
		_ = l.Close()
		if theirs := <-accepted; theirs != nil {
			t.Errorf("network %s: accepted", c.network)
		}
		if !strings.Contains(said.String(), "not allowed") {
			t.Errorf("the log says %q", said.String())
		}
	}
	if !Allowed([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, &net.UnixAddr{Name: "x"}) {
		t.Error("a client of a unix socket is turned away")
	}
	if !Allowed([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, &net.TCPAddr{IP: net.ParseIP("::ffff:10.0.0.1")}) {
		t.Error("an IPv4 address in IPv6 is turned away")
	}
}
