package nbd

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// onEachWritable runs a test against a server of a disk with one more context, over a unix and a TCP socket.
func onEachWritable(t *testing.T, size int, test func(t *testing.T, d *disk, addr net.Addr)) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			d := newDisk(size)
			x := Export{Name: "disk", Device: d, Contexts: []Context{counting("x-page:number", false), counting("x-page:wide", true)}}
			test(t, d, serve(t, ServerConfig{Exports: []Export{x}}, listen(t, network)).addr)
		})
	}
}

// writeScript uses all that an export offers. It runs with uri set.
const writeScript = `
import errno
def refused(want, call):
    try:
        call()
    except nbd.Error as e:
        assert e.errnum == want, "error %s, want %d" % (e, want)
    else:
        assert False, "no error, want %d" % want
def status(context, count, offset, flags=0):
    found = []
    def note(name, at, entries, err):
        if name == context:
            assert at == offset
            found.extend(zip(entries[0::2], entries[1::2]))
    h.block_status(count, offset, note, flags)
    return found
h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.add_meta_context("x-page:number")
h.add_meta_context("x-page:wide")
h.connect_uri(uri)
assert not h.is_read_only() and h.can_flush() and h.can_fua() and h.can_trim() and h.can_zero()
assert h.can_fast_zero() and h.can_cache() and h.can_multi_conn() and h.can_df()
assert h.can_meta_context("base:allocation") and h.can_meta_context("x-page:number")
assert not h.can_meta_context("x-page:wide")
size = h.get_size()

h.pwrite(b'hello' * 2000, 8192)
h.pwrite(b'end', size - 3, nbd.CMD_FLAG_FUA)
h.flush()
assert h.pread(10000, 8192) == b'hello' * 2000
assert h.pread(3, size - 3) == b'end'
assert status("base:allocation", 65536, 0) == [(8192, 3), (12288, 0), (45056, 3)], status("base:allocation", 65536, 0)
assert status("base:allocation", 9000, 0, nbd.CMD_FLAG_REQ_ONE) == [(8192, 3)]
assert status("base:allocation", 5, 8192, nbd.CMD_FLAG_REQ_ONE) == [(5, 0)]
assert status("x-page:number", 8192, 4096) == [(4096, 1), (4096, 2)]

h.zero(4096, 8192)
h.zero(100, 12288, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
assert h.pread(4096, 8192) == bytearray(4096)
assert h.pread(100, 12288) == bytearray(100)
refused(errno.EOPNOTSUPP, lambda: h.zero(100, 12289, nbd.CMD_FLAG_FAST_ZERO))
h.zero(4096, 12288, nbd.CMD_FLAG_FAST_ZERO)
h.trim(4096, 16384)
assert status("base:allocation", 16384, 8192) == [(16384, 3)], status("base:allocation", 16384, 8192)
h.cache(4096, 0)

refused(errno.ENOSPC, lambda: h.pwrite(b'too far', size - 6))
refused(errno.ENOSPC, lambda: h.zero(7, size - 6))
refused(errno.EINVAL, lambda: h.trim(7, size - 6))
refused(errno.EINVAL, lambda: h.pwrite(b'x', 0, nbd.CMD_FLAG_DF))
refused(errno.EINVAL, lambda: h.block_status(size + 1, 0, lambda *a: None))
big = bytes(range(256)) * (128 << 10)
h.pwrite(big, 1)
assert h.pread(len(big), 1) == big
h.shutdown()
`

func TestNbdshUsesAllThatIsOffered(t *testing.T) {
	onEachWritable(t, 40<<20, func(t *testing.T, _ *disk, addr net.Addr) {
		out, err := program(t, "nbdsh", "-c", "uri = '"+uri(addr, "disk")+"'\n", "-c", writeScript)
		must(t, out, err)
	})
}

func TestNbdinfoSeesWhatIsOffered(t *testing.T) {
	onEachWritable(t, 1<<20, func(t *testing.T, d *disk, addr net.Addr) {
		out, err := program(t, "nbdinfo", uri(addr, "disk"))
		must(t, out, err)
		for _, want := range []string{
			"is_read_only: false", "can_fua: true", "can_flush: true", "can_trim: true", "can_zero: true",
			"can_fast_zero: true", "can_cache: true", "can_multi_conn: true", "base:allocation", "x-page:number",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("nbdinfo does not say %q:\n%s", want, out)
			}
		}
		_ = d.WriteAt(t.Context(), []byte("x"), 65536, false)
		out, err = program(t, "nbdinfo", "--map", "--json", uri(addr, "disk"))
		var got []struct{ Offset, Length, Type int }
		if err := json.Unmarshal([]byte(must(t, out, err)), &got); err != nil || len(got) != 3 || got[1].Offset != 65536 ||
			got[1].Length != page || got[1].Type != data || got[2].Type != hole {
			t.Errorf("nbdinfo --map: %v\n%s", err, out)
		}
	})
}

func TestQemuWritesTheExport(t *testing.T) {
	onEachWritable(t, 8<<20, func(t *testing.T, d *disk, addr net.Addr) {
		to := uri(addr, "disk")
		src := filepath.Join(t.TempDir(), "src")
		bytes := append(patternBytes(0, 3<<20), make([]byte, 2<<20)...) // data, a hole, data
		if err := os.WriteFile(src, append(bytes, patternBytes(5<<20, 3<<20)...), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := program(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", src, to)
		must(t, out, err)
		out, err = program(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", src, to)
		must(t, out, err)
		out, err = program(t, "qemu-img", "map", "--output=json", "-f", "raw", to)
		var got []struct {
			Start, Length int
			Zero          bool
		}
		if err := json.Unmarshal([]byte(must(t, out, err)), &got); err != nil || len(got) != 3 || got[1].Start != 3<<20 ||
			got[1].Length != 2<<20 || !got[1].Zero || got[0].Zero {
			t.Errorf("qemu-img map: %v\n%s", err, out)
		}
		out, err = program(t, "qemu-io", "-f", "raw",
			"-c", "write -P 7 4096 65536", "-c", "write -f -P 8 100k 1k", "-c", "write -z -u 1M 64k", "-c", "discard 0 4k", "-c", "flush",
			"-c", "read -P 7 4096 65536", "-c", "read -P 8 100k 1k", "-c", "read -P 0 1M 64k",
			"-c", "aio_write -P 1 2M 64k", "-c", "aio_write -P 2 3M 64k", "-c", "aio_flush", "-c", "read -P 2 3M 64k", to)
		if must(t, out, err); strings.Contains(out, "failed") {
			t.Errorf("qemu-io:\n%s", out)
		}
		if got := d.text(4096, 1); got != "\x07" {
			t.Errorf("the device has %q", got)
		}
	})
}

func TestNbdcopyWritesTheExportSparsely(t *testing.T) {
	onEachWritable(t, 16<<20, func(t *testing.T, d *disk, addr net.Addr) {
		src := filepath.Join(t.TempDir(), "src")
		f, err := os.Create(src)
		if err != nil {
			t.Fatal(err)
		}
		_, err1 := f.WriteAt(patternBytes(0, 4<<20), 1<<20)
		if err := f.Truncate(16 << 20); err != nil || err1 != nil || f.Close() != nil {
			t.Fatal(err, err1)
		}
		out, err := program(t, "nbdcopy", "--connections=4", "--flush", src, uri(addr, "disk"))
		must(t, out, err)
		if d.text(1<<20, 4<<20) != string(patternBytes(0, 4<<20)) {
			t.Error("other bytes are there")
		}
		var sum int64
		_ = d.Extents(context.Background(), 0, 16<<20, func(n int64, hole, _ bool) bool {
			if !hole {
				sum += n
			}
			return true
		})
		if log := d.log(); sum > 5<<20 || log[len(log)-1] != "flush" {
			t.Errorf("%d bytes are allocated of 4 MiB; the last call was %q", sum, log[len(log)-1])
		}
		dest := filepath.Join(t.TempDir(), "dest")
		out, err = program(t, "nbdcopy", uri(addr, "disk"), dest)
		must(t, out, err)
		if got, err := os.ReadFile(dest); err != nil || string(got) != d.text(0, 16<<20) {
			t.Errorf("the copy of the copy differs (%v)", err)
		}
	})
}

func TestFioVerifiesWhatItWrote(t *testing.T) {
	onEachWritable(t, 4<<20, func(t *testing.T, _ *disk, addr net.Addr) {
		for _, bs := range []string{"4k", "128k"} {
			out, err := program(t, "fio", "--name=x", "--ioengine=nbd", "--uri="+uri(addr, "disk"), "--rw=randwrite", "--bs="+bs,
				"--iodepth=64", "--size=4M", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--fsync=64")
			must(t, out, err)
		}
	})
}
