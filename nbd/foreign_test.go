package nbd

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// foreignTimeout ends a foreign program that hangs.
const foreignTimeout = time.Minute

// program runs a foreign client and returns what it wrote. The test is skipped where the program is missing, or fails
// where DNBD_REQUIRE=1 says that nothing may be missing.
func program(t *testing.T, name string, args ...string) (out string, err error) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name+" is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), foreignTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	// nbdsh runs the python3 it finds; the one with its module is the system's.
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:"+os.Getenv("PATH"))
	raw, err := cmd.CombinedOutput()
	return string(raw), err
}

// missing skips the test because of what the machine lacks.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("DNBD_REQUIRE") == "1" {
		t.Fatalf("%s, and DNBD_REQUIRE=1", what)
	}
	t.Skip(what)
}

// must fails the test when a foreign program failed.
func must(t *testing.T, out string, err error) string {
	t.Helper()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// uri is what foreign clients call an export of the server at addr.
func uri(addr net.Addr, export string) string {
	if addr.Network() == "unix" {
		return "nbd+unix:///" + export + "?socket=" + addr.String()
	}
	return "nbd://" + addr.String() + "/" + export
}

// foreignSize is an awkward size: odd, and larger than all that may be under way at once.
const foreignSize = 40<<20 + 513

// onEachSocket runs a test against a server with two exports, over a unix and a TCP socket.
func onEachSocket(t *testing.T, test func(t *testing.T, addr net.Addr)) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			test(t, serve(t, ServerConfig{Exports: []Export{
				{Name: "odd", Description: "an odd size", Device: pattern(foreignSize), BlockSize: 65536},
				{Name: "even", Device: pattern(1 << 20)},
				{Name: "bad", Device: readFunc(func(_ context.Context, _ []byte, off int64) error {
					if off >= 512<<10 {
						return fmt.Errorf("sector %d is worn out", off/512)
					}
					return nil
				})},
			}}, listen(t, network)).addr)
		})
	}
}

func TestNbdinfoSeesTheExports(t *testing.T) {
	onEachSocket(t, func(t *testing.T, addr net.Addr) {
		out, err := program(t, "nbdinfo", "--list", uri(addr, ""))
		must(t, out, err)
		for _, want := range []string{
			`export="odd"`, "description: an odd size", `export="even"`, `export="bad"`,
			fmt.Sprintf("export-size: %d", foreignSize), "is_read_only: true", "can_multi_conn: true", "can_df: true",
			"block_size_minimum: 1", "block_size_preferred: 65536", "block_size_maximum: 67108864",
			"newstyle-fixed without TLS, using structured packets",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("nbdinfo does not say %q:\n%s", want, out)
			}
		}
		if out, err := program(t, "nbdinfo", uri(addr, "nosuch")); err == nil || !strings.Contains(out, "nosuch") {
			t.Errorf("nbdinfo of an unknown export: %v\n%s", err, out)
		}
	})
}

func TestNbdcopyCopiesTheBytes(t *testing.T) {
	onEachSocket(t, func(t *testing.T, addr net.Addr) {
		for _, args := range [][]string{{"--connections=1"}, {"--connections=4"}, {"--synchronous"}, {"--request-size=33554432"}} {
			dest := filepath.Join(t.TempDir(), "copy")
			out, err := program(t, "nbdcopy", append(args, uri(addr, "odd"), dest)...)
			must(t, out, err)
			checkCopy(t, dest)
		}
	})
}

// checkCopy checks that the file is the export odd.
func checkCopy(t *testing.T, path string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, patternBytes(0, foreignSize)) {
		t.Errorf("%s has %d bytes, or wrong ones, want the %d of the export", path, len(got), foreignSize)
	}
}

func TestQemuImgReadsTheExport(t *testing.T) {
	onEachSocket(t, func(t *testing.T, addr net.Addr) {
		out, err := program(t, "qemu-img", "info", "--output=json", uri(addr, "even"))
		if must(t, out, err); !strings.Contains(out, `"virtual-size": 1048576`) {
			t.Errorf("qemu-img info:\n%s", out)
		}
		dest := filepath.Join(t.TempDir(), "copy")
		out, err = program(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", uri(addr, "odd"), dest)
		must(t, out, err)
		if err := os.Truncate(dest, foreignSize); err != nil { // qemu-img rounds up to its sectors
			t.Fatal(err)
		}
		checkCopy(t, dest)
		out, err = program(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", dest, uri(addr, "odd"))
		must(t, out, err)
	})
}

func TestFioReadsTheExport(t *testing.T) {
	onEachSocket(t, func(t *testing.T, addr net.Addr) {
		for _, bs := range []string{"4k", "256k"} {
			out, err := program(t, "fio", "--name=x", "--ioengine=nbd", "--uri="+uri(addr, "even"), "--rw=randread", "--bs="+bs,
				"--iodepth=64", "--size=1M", "--loops=20")
			must(t, out, err)
		}
	})
}

// nbdshScript makes requests that a well-behaved client never sends, on a connection that must survive them. It runs
// with uri set, structured replies or not.
const nbdshScript = `
import errno
def refused(want, call):
    try:
        call()
    except nbd.Error as e:
        assert e.errnum == want, "error %s, want %d" % (e, want)
    else:
        assert False, "no error, want %d" % want
h.set_request_structured_replies(structured)
h.set_strict_mode(0)
h.connect_uri(uri)
assert h.get_structured_replies_negotiated() == structured
size = h.get_size()
want = h.pread(1000, size - 1000)
refused(errno.EINVAL, lambda: h.pread(1001, size - 1000))
refused(errno.EINVAL, lambda: h.pread(1, size))
refused(errno.EINVAL, lambda: h.pread(512, 1 << 62))
refused(errno.EPERM, lambda: h.pwrite(b'x' * 70000, 0))
refused(errno.EPERM, lambda: h.pwrite(b'x', size))
refused(errno.EPERM, lambda: h.trim(512, 0))
refused(errno.EPERM, lambda: h.zero(512, 0))
refused(errno.EINVAL, lambda: h.cache(512, 0))
refused(errno.EINVAL, lambda: h.pread(512, 0, nbd.CMD_FLAG_FUA))
h.flush()
assert len(h.pread(32 << 20, 1)) == 32 << 20
if structured:
    chunks = []
    h.pread_structured(1 << 20, 512, lambda b, off, status, err: chunks.append((off, len(b), status)), nbd.CMD_FLAG_DF)
    assert chunks == [(512, 1 << 20, nbd.READ_DATA)], chunks
assert h.pread(1000, size - 1000) == want
h.shutdown()
`

func TestNbdshCannotBreakTheConnection(t *testing.T) {
	onEachSocket(t, func(t *testing.T, addr net.Addr) {
		for _, structured := range []string{"True", "False"} {
			out, err := program(t, "nbdsh", "-c", fmt.Sprintf("uri = %q\nstructured = %s\n", uri(addr, "odd"), structured), "-c", nbdshScript)
			must(t, out, err)
		}
	})
}

func TestForeignClientsSeeTheErrorsOfTheDevice(t *testing.T) {
	onEachSocket(t, func(t *testing.T, addr net.Addr) {
		out, err := program(t, "nbdcopy", uri(addr, "bad"), "null:")
		if err == nil || !strings.Contains(out, "Input/output error") {
			t.Errorf("nbdcopy of a failing device: %v\n%s", err, out)
		}
		out, err = program(t, "nbdsh", "-u", uri(addr, "bad"), "-c", `
import errno
h.pread(512 << 10, 0)
try:
    h.pread(512, 600 << 10)
    assert False, "no error"
except nbd.Error as e:
    assert e.errnum == errno.EIO, e
h.pread(512 << 10, 0)
`)
		must(t, out, err)
	})
}
