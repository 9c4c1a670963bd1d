package nbd_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dnbd/dnbd/nbd"
)

// deadline ends a test whose server hangs.
const deadline = time.Minute

// lacking skips the test because of what the machine lacks, or fails it where nothing may be missing.
func lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("DNBD_REQUIRE") == "1" {
		t.Fatalf("%s, and DNBD_REQUIRE=1", what)
	}
	t.Skip(what)
}

// server is a foreign server that runs until its test ends.
type server struct {
	t    testing.TB
	args []string
	cmd  *exec.Cmd
	done chan struct{}
	said *bytes.Buffer
}

// spawn starts a foreign server, and waits until something listens at address.
func spawn(t testing.TB, network, address string, args ...string) *server {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		lacking(t, args[0]+" is not installed")
	}
	s := &server{t: t, args: args}
	s.start()
	t.Cleanup(s.kill)
	s.listening(network, address)
	return s
}

func (s *server) start() {
	s.t.Helper()
	s.cmd, s.done, s.said = exec.Command(s.args[0], s.args[1:]...), make(chan struct{}), new(bytes.Buffer)
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
}

// kill ends the server as a crash would.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

// listening waits until the server accepts connections. A connection that says nothing is harmless to all of them.
func (s *server) listening(network, address string) {
	s.t.Helper()
	end := time.Now().Add(deadline)
	for {
		conn, err := net.Dial(network, address)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-s.done:
			s.t.Fatalf("%v ended:\n%s", s.args, s.said)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(end) {
			s.t.Fatalf("%v does not listen: %v", s.args, err)
		}
	}
}

// nbdkit starts nbdkit on a unix socket and returns the URI of its default export.
func nbdkit(t testing.TB, args ...string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	spawn(t, "unix", socket, append([]string{"nbdkit", "-f", "--exit-with-parent", "-U", socket}, args...)...)
	return "nbd+unix:///?socket=" + socket
}

// connect dials uri. The client is closed when the test ends.
func connect(t testing.TB, uri string, config nbd.DialConfig) *nbd.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	c, err := nbd.Dial(ctx, uri, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// soon is a context for what must not take for ever.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// ok fails the test because of an error.
func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// checkPattern checks bytes of nbdkit's pattern: every 8 bytes hold their offset.
func checkPattern(t *testing.T, p []byte, off int64) {
	t.Helper()
	for i := 0; i < len(p); {
		var word [8]byte
		at := off + int64(i)
		binary.BigEndian.PutUint64(word[:], uint64(at&^7))
		part := p[i:min(len(p), i+8-int(at&7))]
		if !bytes.Equal(part, word[at&7:][:len(part)]) {
			t.Fatalf("bytes %x at %d, want those of %x", part, at, word)
		}
		i += len(part)
	}
}

// readAtRandom reads c, an export of nbdkit's pattern, at random places from several goroutines.
func readAtRandom(t *testing.T, c *nbd.Client, workers, count int, longest int64) {
	t.Helper()
	ctx := soon(t)
	var wg sync.WaitGroup
	for worker := range workers {
		random := mathrand.New(mathrand.NewPCG(uint64(worker), 1))
		wg.Go(func() {
			for range count {
				n := min(1+random.Int64N(longest), c.Size())
				off := random.Int64N(c.Size() - n + 1)
				p := make([]byte, n)
				if err := c.ReadAt(ctx, p, off); err != nil {
					t.Error(err)
					return
				}
				checkPattern(t, p, off)
			}
		})
	}
	wg.Wait()
}

func TestClientReadsWhatNbdkitHas(t *testing.T) {
	pattern := []string{"pattern", "size=1T"}
	for _, c := range []struct {
		name    string
		args    []string
		config  nbd.DialConfig
		longest int64
		replies string
		conns   int
	}{
		{"structured replies", pattern, nbd.DialConfig{}, 300_000, "structured", 1},
		{"simple replies by our wish", pattern, nbd.DialConfig{NoStructuredReplies: true}, 300_000, "simple", 1},
		{"simple replies by its wish", append([]string{"--no-sr"}, pattern...), nbd.DialConfig{}, 300_000, "simple", 1},
		{"EXPORT_NAME", append([]string{"--mask-handshake=0"}, pattern...), nbd.DialConfig{}, 300_000, "simple", 1},
		{"fixed newstyle with padding", append([]string{"--mask-handshake=1"}, pattern...), nbd.DialConfig{}, 300_000, "structured", 1},
		{"without block sizes", pattern, nbd.DialConfig{NoBlockSizes: true}, 300_000, "structured", 1},
		{"four connections", pattern, nbd.DialConfig{Connections: 4}, 300_000, "structured", 4},
		{"as many connections as there are", append([]string{"--filter=limit"}, append(pattern, "limit=2")...), nbd.DialConfig{Connections: 4}, 300_000, "structured", 2},
		{"larger than a request", pattern, nbd.DialConfig{}, 70 << 20, "structured", 1},
		{
			"a server of large blocks",
			append([]string{"--filter=blocksize-policy"}, append(pattern, "blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=64K", "blocksize-error-policy=error")...),
			nbd.DialConfig{},
			300_000, "structured", 1,
		},
		{"slow replies", append([]string{"--filter=delay"}, append(pattern, "rdelay=20ms")...), nbd.DialConfig{}, 100_000, "structured", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			client := connect(t, nbdkit(t, c.args...), c.config)
			if info := client.Info(); info.Replies != c.replies || info.Size != 1<<40 || info.Connections != c.conns {
				t.Errorf("Info: %+v, want %s replies over %d connections", info, c.replies, c.conns)
			}
			if c.longest > 1<<20 {
				readAtRandom(t, client, 1, 1, c.longest)
			} else {
				readAtRandom(t, client, 8, 20, c.longest)
			}
		})
	}
}

func TestClientIsToldWhyItCannotHaveAnExport(t *testing.T) {
	for _, c := range []struct {
		name   string
		args   []string
		uri    string // what follows the scheme's colon up to the question mark
		is     error
		reason string
	}{
		{"oldstyle", []string{"-o", "null", "size=1M"}, "///", errors.ErrUnsupported, "oldstyle"},
		{"no such export", []string{"file", "dir=" + t.TempDir()}, "///nosuch", nil, "nosuch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			uri := strings.Replace(nbdkit(t, c.args...), "///", c.uri, 1)
			_, err := nbd.Dial(soon(t), uri, nbd.DialConfig{})
			if err == nil || !strings.Contains(err.Error(), c.reason) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("Dial: %v, want %v and %q", err, c.is, c.reason)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		_, err := nbd.Dial(soon(t), "nbd+unix:///?socket="+filepath.Join(t.TempDir(), "s"), nbd.DialConfig{})
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Dial: %v", err)
		}
	})
}

// checkWritable writes, trims and zeroes at random places and compares with a copy of its own.
func checkWritable(t *testing.T, c *nbd.Client, rounds int) {
	t.Helper()
	ctx := soon(t)
	model := make([]byte, c.Size())
	ok(t, c.ReadAt(ctx, model, 0))
	random := mathrand.New(mathrand.NewPCG(7, 7))
	info := c.Info()
	for range rounds {
		n := 1 + random.Int64N(min(c.Size(), 200_000))
		off := random.Int64N(c.Size() - n + 1)
		fua := random.IntN(4) == 0 && (info.FUA || info.Flush)
		part := model[off : off+n]
		switch random.IntN(4) {
		case 0:
			_, _ = rand.Read(part)
			ok(t, c.WriteAt(ctx, part, off, fua))
		case 1:
			if !info.WriteZeroes {
				continue
			}
			clear(part)
			ok(t, c.WriteZeroes(ctx, off, n, random.IntN(2) == 0, false, fua))
		case 2:
			if !info.Trim {
				continue
			}
			ok(t, c.Trim(ctx, off, n, fua))
			ok(t, c.ReadAt(ctx, part, off)) // it may be anything
		case 3:
			got := make([]byte, n)
			ok(t, c.ReadAt(ctx, got, off))
			if !bytes.Equal(got, part) {
				t.Fatalf("%d bytes at %d are not what was written", n, off)
			}
		}
	}
	if info.Flush {
		ok(t, c.Flush(ctx))
	}
	got := make([]byte, c.Size())
	ok(t, c.ReadAt(ctx, got, 0))
	if !bytes.Equal(got, model) {
		t.Error("the export is not what was written")
	}
}

func TestClientWritesToAnyServer(t *testing.T) {
	memory := []string{"memory", "size=3M"}
	blocks := []string{"blocksize-minimum=4096", "blocksize-preferred=64K", "blocksize-maximum=128K", "blocksize-error-policy=error"}
	for _, c := range []struct {
		name string
		uri  func(t *testing.T) string
		want func(nbd.ClientInfo) bool
	}{
		{"nbdkit memory", func(t *testing.T) string { return nbdkit(t, memory...) }, func(i nbd.ClientInfo) bool { return i.FUA && i.Trim && i.WriteZeroes }},
		{"nbdkit without zeroes", func(t *testing.T) string { return nbdkit(t, append([]string{"--filter=nozero"}, memory...)...) }, func(i nbd.ClientInfo) bool { return !i.WriteZeroes }},
		{"nbdkit without FUA", func(t *testing.T) string {
			return nbdkit(t, append([]string{"--filter=fua"}, append(memory, "fuamode=discard")...)...)
		}, nil},
		{"nbdkit of large blocks", func(t *testing.T) string {
			return nbdkit(t, append([]string{"--filter=blocksize-policy"}, append(memory, blocks...)...)...)
		}, func(i nbd.ClientInfo) bool { return i.MinBlock == 4096 }},
		{"nbdkit of large blocks and an odd size", func(t *testing.T) string {
			return nbdkit(t, "--filter=blocksize-policy", "memory", "size=3000001", "blocksize-minimum=4096", "blocksize-preferred=64K")
		}, func(i nbd.ClientInfo) bool { return i.MinBlock == 4096 && i.Size == 3000001 }},
		{"qemu-nbd", qemuNBD, func(i nbd.ClientInfo) bool { return i.WriteZeroes && i.Replies == "structured" }},
		{"nbd-server", nbdServer, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			client := connect(t, c.uri(t), nbd.DialConfig{Connections: 3})
			if info := client.Info(); c.want != nil && !c.want(info) {
				t.Errorf("Info: %+v", info)
			}
			checkWritable(t, client, 150)
		})
	}
}

// qemuNBD starts qemu-nbd with an empty disk.
func qemuNBD(t *testing.T) string {
	socket, file := filepath.Join(t.TempDir(), "s"), filepath.Join(t.TempDir(), "disk")
	ok(t, os.WriteFile(file, make([]byte, 3<<20), 0o600))
	spawn(t, "unix", socket, "qemu-nbd", "-f", "raw", "-t", "-e", "8", "-x", "disk", "-D", "a disk", "-k", socket, "--discard=unmap", file)
	return "nbd+unix:///disk?socket=" + socket
}

// nbdServer starts nbd-server with an empty disk.
func nbdServer(t *testing.T) string {
	folder := t.TempDir()
	file, config := filepath.Join(folder, "disk"), filepath.Join(folder, "config")
	ok(t, os.WriteFile(file, make([]byte, 3<<20), 0o600))
	address := freeAddress(t)
	host, port, _ := net.SplitHostPort(address)
	ok(t, os.WriteFile(config, fmt.Appendf(nil, `[generic]
	listenaddr = %s
	port = %s
	allowlist = true
[disk]
	exportname = %s
	flush = true
	fua = true
	trim = true
`, host, port, file), 0o600))
	// It goes to the background, and what it leaves there is its number. In the foreground it serves one connection.
	if _, err := exec.LookPath("nbd-server"); err != nil {
		lacking(t, "nbd-server is not installed")
	}
	pid := filepath.Join(folder, "pid")
	if out, err := exec.Command("nbd-server", "-C", config, "-p", pid).CombinedOutput(); err != nil {
		t.Fatalf("nbd-server: %v\n%s", err, out)
	}
	s := &server{t: t, args: []string{"nbd-server"}, done: make(chan struct{}), said: new(bytes.Buffer)}
	s.listening("tcp", address)
	t.Cleanup(func() {
		text, err := os.ReadFile(pid)
		ok(t, err)
		number, err := strconv.Atoi(strings.TrimSpace(string(text)))
		ok(t, err)
		ok(t, syscall.Kill(number, syscall.SIGTERM))
	})
	return "nbd://" + address + "/disk"
}

// freeAddress is a TCP address that nobody listens on.
func freeAddress(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	return l.Addr().String()
}

func TestClientSaysWhatTheServerLacksBeforeAskingIt(t *testing.T) {
	ctx := soon(t)
	readOnly := connect(t, nbdkit(t, "-r", "--no-sr", "null", "size=1M"), nbd.DialConfig{})
	bare := connect(t, nbdkit(t, "--filter=nozero", "--filter=nocache", "sh", script(t)), nbd.DialConfig{})
	for _, c := range []struct {
		name string
		err  error
	}{
		{"write", readOnly.WriteAt(ctx, make([]byte, 1), 0, false)},
		{"trim", readOnly.Trim(ctx, 0, 1, false)},
		{"zero", readOnly.WriteZeroes(ctx, 0, 1, true, false, false)},
		{"extents", readOnly.Extents(ctx, 0, 1, nil)},
		{"another context", bare.BlockStatus(ctx, "qemu:dirty-bitmap:x", 0, 1, nil)},
		{"flush", bare.Flush(ctx)},
		{"trim", bare.Trim(ctx, 0, 1, false)},
		{"zero", bare.WriteZeroes(ctx, 0, 1, true, false, false)},
		{"prefetch", bare.Prefetch(ctx, 0, 1)},
		{"force", bare.WriteAt(ctx, make([]byte, 1), 0, true)},
	} {
		if !errors.Is(c.err, errors.ErrUnsupported) {
			t.Errorf("%s: %v, want ErrUnsupported", c.name, c.err)
		}
	}
	for _, c := range []struct {
		name string
		err  error
	}{
		{"behind the end", readOnly.ReadAt(ctx, make([]byte, 2), 1<<20-1)},
		{"before the beginning", readOnly.ReadAt(ctx, make([]byte, 2), -1)},
		{"overflow", readOnly.Extents(ctx, 1, 1<<63-1, nil)},
	} {
		if c.err == nil {
			t.Errorf("%s: no error", c.name)
		}
	}
}

// script is a plugin of nbdkit that can be read and written, no more.
func script(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "plugin")
	ok(t, os.WriteFile(path, []byte(`#!/bin/sh
case "$1" in
get_size) echo 1048576 ;;
pread) head -c "$3" /dev/zero ;;
can_write) exit 0 ;;
pwrite) cat >/dev/null ;;
*) exit 2 ;;
esac
`), 0o700))
	return path
}

func TestClientSeesTheErrorsOfTheServer(t *testing.T) {
	ctx := soon(t)
	c := connect(t, nbdkit(t, "eval", "get_size=echo 64M", "can_write=exit 0", "pread=echo ENOSPC the tank is empty >&2; exit 1",
		"pwrite=cat >/dev/null; echo EPERM hands off >&2; exit 1"), nbd.DialConfig{})
	err := c.ReadAt(ctx, make([]byte, 512), 1024)
	var remote *nbd.RemoteError
	if !errors.As(err, &remote) || remote.Errno() != syscall.ENOSPC || !strings.Contains(err.Error(), "512 bytes at 1024") {
		t.Errorf("ReadAt: %v", err)
	}
	if err := c.WriteAt(ctx, make([]byte, 512), 0, false); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("WriteAt: %v", err)
	}

	flaky := connect(t, nbdkit(t, "--filter=error", "pattern", "size=1G", "error=EIO", "error-pread-rate=30%"), nbd.DialConfig{})
	failed := 0
	for i := range int64(200) {
		p := make([]byte, 1000)
		switch err := flaky.ReadAt(ctx, p, i*12345); {
		case err == nil:
			checkPattern(t, p, i*12345)
		case errors.Is(err, syscall.EIO):
			failed++
		default:
			t.Fatal(err)
		}
	}
	if failed == 0 || failed == 200 {
		t.Errorf("%d of 200 reads failed, want some", failed)
	}
}

func TestClientMapsExtents(t *testing.T) {
	ctx := soon(t)
	for _, c := range []struct {
		name string
		args []string
	}{
		{"small blocks", nil},
		{"large blocks", []string{"blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-error-policy=error"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := connect(t, nbdkit(t, append([]string{"--filter=blocksize-policy", "memory", "size=8G"}, c.args...)...), nbd.DialConfig{})
			ok(t, client.WriteAt(ctx, bytes.Repeat([]byte{1}, 65536), 3<<30, false))
			type extent struct {
				n          int64
				hole, zero bool
			}
			var got []extent
			collect := func(n int64, hole, zero bool) bool {
				if last := len(got) - 1; last >= 0 && got[last].hole == hole && got[last].zero == zero {
					got[last].n += n
				} else {
					got = append(got, extent{n, hole, zero})
				}
				return true
			}
			ok(t, client.Extents(ctx, 1, 8<<30-1, collect))
			want := []extent{{3<<30 - 1, true, true}, {65536, false, false}, {5<<30 - 65536, true, true}}
			if !slices.Equal(got, want) {
				t.Errorf("extents %v, want %v", got, want)
			}
			got = nil
			ok(t, client.Extents(ctx, 3<<30+5, 1, collect))
			if len(got) != 1 || got[0].hole || got[0].n < 1 {
				t.Errorf("extents of one byte: %v", got)
			}
			calls := 0
			ok(t, client.Extents(ctx, 0, 8<<30, func(int64, bool, bool) bool { calls++; return false }))
			if calls != 1 {
				t.Errorf("after false there were %d calls", calls)
			}
		})
	}
}

func TestListTellsTheExports(t *testing.T) {
	uri := qemuNBD(t)
	list, err := nbd.List(soon(t), uri, nbd.DialConfig{})
	ok(t, err)
	if len(list) != 1 || list[0].Name != "disk" || list[0].Description != "a disk" || list[0].Size != 3<<20 || !slices.Contains(list[0].Contexts, "base:allocation") {
		t.Errorf("qemu-nbd's list: %+v", list)
	}
	list, err = nbd.List(soon(t), nbdServer(t), nbd.DialConfig{})
	ok(t, err)
	if len(list) != 1 || list[0].Name != "disk" {
		t.Errorf("nbd-server's list: %+v", list)
	}
	if _, err := nbd.List(soon(t), nbdkit(t, "--mask-handshake=0", "null"), nbd.DialConfig{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("list of a server that is not fixed: %v", err)
	}
}

func TestForcedWritesAreFlushedWhereThereIsNoFUA(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	c := connect(t, nbdkit(t, "eval", "get_size=echo 1M", "can_write=exit 0", "can_flush=exit 0", "can_fua=echo none",
		"pwrite=cat >/dev/null; echo write >>"+log, "flush=echo flush >>"+log), nbd.DialConfig{})
	if i := c.Info(); i.FUA || !i.Flush {
		t.Fatalf("Info: %+v, want flush without FUA", i)
	}
	ok(t, c.WriteAt(soon(t), make([]byte, 512), 0, true))
	got, err := os.ReadFile(log)
	ok(t, err)
	if string(got) != "write\nflush\n" {
		t.Errorf("the server saw %q", got)
	}
}

func TestVsockTellsWhyThereIsNoConnection(t *testing.T) {
	if _, err := nbd.Dial(soon(t), "nbd+vsock://1:1/", nbd.DialConfig{}); err == nil || !strings.Contains(err.Error(), "vsock") {
		t.Errorf("Dial: %v", err)
	}
}

func TestNeighboursInOneBlockDoNotUndoEachOther(t *testing.T) {
	const block, part = 4096, 512
	c := connect(t, nbdkit(t, "--filter=blocksize-policy", "memory", "size=64K", "blocksize-minimum=4096", "blocksize-preferred=4096",
		"blocksize-error-policy=error"), nbd.DialConfig{Connections: 4})
	ctx := soon(t)
	var wg sync.WaitGroup
	for i := range int64(block / part) {
		wg.Go(func() {
			want, got := make([]byte, part), make([]byte, part)
			for round := range 30 {
				for at := range want {
					want[at] = byte(round + int(i))
				}
				var err error
				if i%2 == 0 && round%3 == 0 {
					clear(want)
					err = c.WriteZeroes(ctx, i*part, part, true, false, false)
				} else {
					err = c.WriteAt(ctx, want, i*part, false)
				}
				if err = errors.Join(err, c.ReadAt(ctx, got, i*part)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("part %d was undone in round %d: %v", i, round, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestManyReadsThatAreGivenUp(t *testing.T) {
	c := connect(t, nbdkit(t, "pattern", "size=1T"), nbd.DialConfig{Connections: 2})
	ctx := soon(t)
	var wg sync.WaitGroup
	var given, answered atomic.Int64
	for worker := range uint64(8) {
		random := mathrand.New(mathrand.NewPCG(worker, 2))
		wg.Go(func() {
			p := make([]byte, 60_000)
			for range 40 {
				off := random.Int64N(c.Size() - int64(len(p)))
				brief, cancel := context.WithTimeout(ctx, time.Duration(random.IntN(20_000))*time.Microsecond)
				err := c.ReadAt(brief, p, off)
				cancel()
				switch {
				case err == nil:
					checkPattern(t, p, off)
					answered.Add(1)
				case errors.Is(err, context.DeadlineExceeded):
					clear(p)
					given.Add(1)
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	readAtRandom(t, c, 4, 10, 300_000)
	t.Logf("%d reads were given up, %d answered", given.Load(), answered.Load())
}
