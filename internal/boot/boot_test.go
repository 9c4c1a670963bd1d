package boot

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pin/tftp/v3"
)

// patience bounds every wait for something that takes moments.
const patience = 20 * time.Second

// offered makes files to be offered, and beside them one that is not.
func offered(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	big := make([]byte, 3<<20+1)
	rand.Read(big)
	for name, content := range map[string][]byte{
		"kernel": big, "initrd": []byte("initrd"), "secret": []byte("secret"),
		"loaders/undionly.kpxe": []byte("bios"), "loaders/snponly.efi": []byte("uefi"), "loaders/passwd": []byte("secret"),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Config{
		Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"), Loaders: filepath.Join(dir, "loaders"),
		CommandLine: "quiet", HTTP: "127.0.0.1:0", TFTP: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler),
	}
}

// serving runs a server. It is stopped at the end of the test, if not by the function returned before.
func serving(t *testing.T, cfg Config) (*Server, func()) {
	t.Helper()
	s, err := Listen(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop := func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("the server does not stop")
		}
	}
	t.Cleanup(stop)
	return s, stop
}

// byTFTP fetches a file.
func byTFTP(t *testing.T, at netip.AddrPort, name string) ([]byte, error) {
	t.Helper()
	c, err := tftp.NewClient(at.String())
	if err != nil {
		t.Fatal(err)
	}
	c.SetBlockSize(1400)
	c.RequestTSize(true)
	from, err := c.Receive(name, "octet")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = from.WriteTo(&b)
	return b.Bytes(), err
}

// byHTTP fetches a path as it is written.
func byHTTP(t *testing.T, at netip.AddrPort, method, path string) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+at.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Opaque = path
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, body
}

func TestFilesAreServedByTFTPAndHTTP(t *testing.T) {
	cfg := offered(t)
	s, _ := serving(t, cfg)
	kernel, err := os.ReadFile(cfg.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{
		KernelName: kernel, InitrdName: []byte("initrd"), "undionly.kpxe": []byte("bios"), "snponly.efi": []byte("uefi"),
		IPXEName: []byte(IPXEScript("quiet", true)), GRUBName: []byte(GRUBConfig("quiet", true)),
		"grub/grub.cfg": []byte(GRUBConfig("quiet", true)),
	}
	for name, content := range want {
		for _, asked := range []string{name, "/" + name} {
			if got, err := byTFTP(t, s.TFTP(), asked); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s by TFTP: %d bytes, %v, want %d", asked, len(got), err, len(content))
			}
		}
		if code, got := byHTTP(t, s.HTTP(), http.MethodGet, "/"+name); code != http.StatusOK || !bytes.Equal(got, content) {
			t.Errorf("%s by HTTP: status %d and %d bytes, want %d", name, code, len(got), len(content))
		}
		if !slices.Contains(s.Names(), name) {
			t.Errorf("%s is not in %v", name, s.Names())
		}
	}
	if err := os.WriteFile(cfg.Kernel, []byte("upgraded"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := byTFTP(t, s.TFTP(), KernelName); err != nil || string(got) != "upgraded" {
		t.Errorf("a kernel that was replaced: %.20q, %v", got, err)
	}
}

func TestNothingElseIsServed(t *testing.T) {
	s, _ := serving(t, offered(t))
	for _, name := range []string{
		"", "/", ".", "..", "secret", "/secret", "../secret", "/../secret", "loaders/../secret", "passwd", "loaders/passwd", "kernel",
		"grub/../vmlinuz", "//vmlinuz", "vmlinuz/", "./vmlinuz", "vmlinuz\n", "/etc/passwd", "../../../../../../etc/passwd",
		`..\secret`, "%2e%2e/secret", "VMLINUZ", strings.Repeat("../", 100) + "etc/passwd",
	} {
		if got, err := byTFTP(t, s.TFTP(), name); err == nil {
			t.Errorf("%q by TFTP: %d bytes", name, len(got))
		}
		if strings.Contains(name, "\n") || strings.HasPrefix(name, "/") {
			continue // a request cannot have the one, and the other names a host
		}
		if code, _ := byHTTP(t, s.HTTP(), http.MethodGet, "/"+name); code != http.StatusNotFound {
			t.Errorf("%q by HTTP: status %d", name, code)
		}
	}
	if code, _ := byHTTP(t, s.HTTP(), http.MethodPut, "/"+KernelName); code != http.StatusMethodNotAllowed {
		t.Errorf("PUT has status %d", code)
	}
	if code, got := byHTTP(t, s.HTTP(), http.MethodHead, "/"+InitrdName); code != http.StatusOK || len(got) != 0 {
		t.Errorf("HEAD has status %d, %d bytes", code, len(got))
	}
	c, err := tftp.NewClient(s.TFTP().String())
	if err != nil {
		t.Fatal(err)
	}
	if to, err := c.Send(KernelName, "octet"); err == nil {
		if _, err = to.ReadFrom(strings.NewReader("mine")); err == nil {
			t.Error("a file was written to by TFTP")
		}
	}
}

func TestAServerStopsInTheMiddleOfATransfer(t *testing.T) {
	s, stop := serving(t, offered(t))
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A machine that asks and goes away once the first block is there.
	if _, err := conn.WriteTo([]byte("\x00\x01vmlinuz\x00octet\x00"), net.UDPAddrFromAddrPort(s.TFTP())); err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 600)
	if n, _, err := conn.ReadFrom(block); err != nil || n != 516 || !bytes.HasPrefix(block, []byte{0, 3, 0, 1}) {
		t.Fatalf("got % x…, %v, want the first block", block[:min(n, 8)], err)
	}
	stop()
}

func TestWhatCannotBeOfferedIsNamed(t *testing.T) {
	dir := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		rule   string
		change func(*Config)
		want   string
	}{
		{"no kernel", func(c *Config) { c.Kernel = "/nonexistent" }, "kernel: open /nonexistent: "},
		{"a directory", func(c *Config) { c.Kernel = dir }, "is not a regular file"},
		{"no initrd", func(c *Config) { c.Initrd = "/nonexistent" }, "initrd: open /nonexistent: "},
		{"no folder of loaders", func(c *Config) { c.Loaders = "/nonexistent" }, "Debian's package ipxe has them"},
		{"no loaders in it", func(c *Config) { c.Loaders = dir }, dir + " has none of "},
		{"a command line", func(c *Config) { c.CommandLine = "a || b" }, "word ||"},
		{"a port in use", func(c *Config) { c.HTTP = taken.Addr().String() }, "another program serves there"},
		{"no such address", func(c *Config) { c.TFTP = "nonsense" }, "TFTP at nonsense"},
		{"no interface for DHCP", func(c *Config) { c.DHCP = true }, "it needs an interface"},
		{
			"DHCP, and TFTP elsewhere",
			func(c *Config) {
				c.DHCP, c.Interface = true, Interface{"lo", netip.MustParseAddr("127.0.0.1")}
			},
			"ask at port 69",
		},
	} {
		cfg := offered(t)
		c.change(&cfg)
		s, err := Listen(t.Context(), cfg)
		if err == nil {
			s.Close()
			t.Errorf("%s: there is no error", c.rule)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q is not in: %v", c.rule, c.want, err)
		}
	}
	if _, err := FindInterface("nonexistent0"); err == nil || !strings.Contains(err.Error(), "interface nonexistent0: ") {
		t.Errorf("an interface that is not there: %v", err)
	}
}
