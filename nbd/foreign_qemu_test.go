package nbd

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// count is how many calls of a disk are want.
func (d *disk) count(want string) (n int) {
	for _, call := range d.log() {
		if call == want {
			n++
		}
	}
	return n
}

func TestQemuImgBenchIsAnsweredInFull(t *testing.T) {
	onEachWritable(t, 8<<20, func(t *testing.T, d *disk, addr net.Addr) {
		to := uri(addr, "disk")
		for _, c := range []struct {
			args          string
			write, number string
		}{
			{args: "-c 5000 -d 64 -s 4096"},
			{args: "-c 2000 -d 1 -s 512 -S 12288"},
			{args: "-c 200 -d 16 -s 1048576"},
			{"-w --pattern=90 -c 5000 -d 64 -s 4096", "write 4096 at 40960 fua false", "Z"},
			{"-w --pattern=91 -c 2000 -d 32 -s 4096 --flush-interval=64", "write 4096 at 40960 fua false", "["},
			{"-w --pattern=92 -c 100 -d 8 -s 1048576 --flush-interval=16 --no-drain", "write 1048576 at 1048576 fua false", `\`},
		} {
			d.forget()
			args := append(append([]string{"bench", "-f", "raw"}, strings.Fields(c.args)...), to)
			out, err := program(t, "qemu-img", args...)
			if must(t, out, err); !strings.Contains(out, "Run completed") {
				t.Errorf("%s:\n%s", c.args, out)
			}
			if c.write == "" {
				continue
			}
			if d.count(c.write) == 0 || d.text(1<<20, 512) != strings.Repeat(c.number, 512) {
				t.Errorf("%s: the device has %q", c.args, d.text(1<<20, 8))
			}
			if strings.Contains(c.args, "flush") && d.count("flush") == 0 {
				t.Errorf("%s: nothing was flushed", c.args)
			}
		}
	})
}

// secured is a server of a disk behind TLS, as libnbd and QEMU name it.
type secured struct {
	disk *disk
	port string
	uri  string
	// creds and image are arguments of QEMU's programs: the certificates, and where the export is.
	creds []string
	image string
	dir   string
}

// onTLS starts a server that demands certificates of its clients.
func onTLS(t *testing.T, size int) *secured {
	t.Helper()
	a := newAuthority(t)
	s := &secured{disk: newDisk(size), dir: a.directory(a)}
	x := Export{Name: "disk", Description: "behind TLS", Device: s.disk, Contexts: []Context{counting("x-page:number", false), counting("x-page:wide", true)}}
	server := serve(t, ServerConfig{Exports: []Export{x}, TLSMode: TLSRequired, TLS: a.server()}, listen(t, "tcp"))
	s.port = strconv.Itoa(server.addr.(*net.TCPAddr).Port)
	s.uri = "nbds://localhost:" + s.port + "/disk?tls-certificates=" + s.dir
	s.creds = []string{"--object", "tls-creds-x509,id=t,endpoint=client,dir=" + s.dir}
	s.image = "driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=localhost,file.server.port=" + s.port +
		",file.export=disk,file.tls-creds=t"
	return s
}

// qemu runs a program of QEMU's, with the certificates behind its first arguments.
func (s *secured) qemu(t *testing.T, name string, first []string, rest ...string) string {
	t.Helper()
	out, err := program(t, name, append(append(first, s.creds...), rest...)...)
	return must(t, out, err)
}

func TestQemuUsesAnExportBehindTLS(t *testing.T) {
	s := onTLS(t, 8<<20)
	src, dest := filepath.Join(t.TempDir(), "src"), filepath.Join(t.TempDir(), "dest")
	if err := os.WriteFile(src, append(append(patternBytes(0, 3<<20), make([]byte, 2<<20)...), patternBytes(5<<20, 3<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	file := "driver=raw,file.driver=file,file.filename=" + src
	if out := s.qemu(t, "qemu-img", []string{"info"}, "--output=json", "--image-opts", s.image); !strings.Contains(out, `"virtual-size": 8388608`) {
		t.Errorf("qemu-img info:\n%s", out)
	}
	s.qemu(t, "qemu-img", []string{"convert"}, "-n", "--target-image-opts", "-f", "raw", src, s.image)
	s.qemu(t, "qemu-img", []string{"compare"}, "--image-opts", s.image, file)
	if out := s.qemu(t, "qemu-img", []string{"map"}, "--output=json", "--image-opts", s.image); strings.Count(out, `"start"`) != 3 {
		t.Errorf("qemu-img map:\n%s", out)
	}
	s.qemu(t, "qemu-img", []string{"convert"}, "--image-opts", "-O", "raw", s.image, dest)
	if got, err := os.ReadFile(dest); err != nil || string(got) != s.disk.text(0, 8<<20) {
		t.Errorf("qemu-img convert made another file (%v)", err)
	}
	out := s.qemu(t, "qemu-io", nil, "--image-opts",
		"-c", "write -P 7 4096 65536", "-c", "write -f -P 8 100k 1k", "-c", "write -z -u 1M 64k", "-c", "discard 0 4k", "-c", "flush",
		"-c", "aio_write -P 1 2M 64k", "-c", "aio_write -P 2 3M 2M", "-c", "aio_flush",
		"-c", "read -P 7 4096 65536", "-c", "read -P 8 100k 1k", "-c", "read -P 0 1M 64k", "-c", "read -P 2 3M 2M", s.image)
	if strings.Contains(out, "failed") || s.disk.text(3<<20, 1) != "\x02" || s.disk.count("write 1024 at 102400 fua true") != 1 {
		t.Errorf("qemu-io:\n%s", out)
	}
}

func TestNbdshUsesAllThatIsOfferedBehindTLS(t *testing.T) {
	s := onTLS(t, 40<<20)
	out, err := program(t, "nbdsh", "-c", "uri = '"+s.uri+"'\nh.set_uri_allow_local_file(True)\n", "-c", writeScript)
	must(t, out, err)
}

func TestNbdClientListsTheExports(t *testing.T) {
	list := func(t *testing.T, want string, args ...string) {
		t.Helper()
		out, err := program(t, "nbd-client", append([]string{"-l"}, args...)...)
		if must(t, out, err); out != "Negotiation: ..\n"+want {
			t.Errorf("nbd-client -l %q:\n%s", args, out)
		}
	}
	onEachSocket(t, func(t *testing.T, addr net.Addr) {
		args := []string{"-unix", addr.String()}
		if host, port, err := net.SplitHostPort(addr.String()); addr.Network() == "tcp" && err == nil {
			args = []string{host, port}
		}
		list(t, "odd: an odd size\neven\nbad\n", args...)
	})
	t.Run("tls", func(t *testing.T) {
		s := onTLS(t, page)
		list(t, "disk: behind TLS\n", "localhost", s.port, "-x", "-A", filepath.Join(s.dir, "ca-cert.pem"),
			"-certfile", filepath.Join(s.dir, "client-cert.pem"), "-keyfile", filepath.Join(s.dir, "client-key.pem"))
		if out, err := program(t, "nbd-client", "-l", "localhost", s.port); err == nil || strings.Contains(out, "disk") {
			t.Errorf("nbd-client -l without TLS: %v\n%s", err, out)
		}
	})
}
