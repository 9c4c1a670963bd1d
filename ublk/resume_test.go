//go:build linux && (amd64 || arm64 || loong64 || riscv64)

package ublk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/ublk/internal/uring"
)

// This program is also the process that is killed: it serves a file as a disk when these variables tell it which.
const (
	serveVariable  = "UBLK_TEST_SERVE"  // the path of the file
	resumeVariable = "UBLK_TEST_RESUME" // the number of the disk to resume, if it is to be resumed
)

func TestMain(m *testing.M) {
	path := os.Getenv(serveVariable)
	if path == "" {
		os.Exit(m.Run())
	}
	if err := serveFile(path, os.Getenv(resumeVariable)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// serveFile serves a file until standard input ends, and prints the number of the disk when it can be used.
func serveFile(path, resume string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	c := Config{Device: file{f}, Recover: true}
	var d *Disk
	if id, bad := strconv.Atoi(resume); bad == nil {
		d, err = Resume(context.Background(), id, c)
	} else {
		d, err = New(context.Background(), c)
	}
	if err != nil {
		return err
	}
	fmt.Println(d.ID())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return d.Close()
}

// file is a device that outlives its process, in the kernel's page cache.
type file struct{ *os.File }

func (f file) Size() int64 {
	st, err := f.Stat()
	if err != nil {
		panic(err)
	}
	return st.Size()
}

func (f file) ReadAt(_ context.Context, p []byte, off int64) error {
	_, err := f.File.ReadAt(p, off)
	return err
}

func (f file) WriteAt(_ context.Context, p []byte, off int64, _ bool) error {
	_, err := f.File.WriteAt(p, off)
	return err
}

func (f file) Flush(context.Context) error { return f.Sync() }

// server is a process that serves a file.
type server struct {
	cmd   *exec.Cmd
	stdin io.Closer
	id    int
}

// startServer starts a process that serves the file at path, as the disk resume if that is a number, and waits until it does.
func startServer(path, resume string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{cmd: exec.Command(self)}
	s.cmd.Env = append(os.Environ(), serveVariable+"="+path, resumeVariable+"="+resume)
	s.cmd.Stderr = os.Stderr
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		s.id, err = strconv.Atoi(strings.TrimSpace(said))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the server said %q: %w", said, err), s.cmd.Wait())
	}
	return s, nil
}

// kill kills the process, which leaves the disk without one.
func (s *server) kill() error {
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = s.cmd.Wait() // it was killed, as it says
	return nil
}

// served has a process serve a file of size bytes until the test ends.
func served(t *testing.T, size int64) (s *server, path string) {
	t.Helper()
	need(t)
	path = filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	s, err := startServer(path, "")
	if err != nil {
		t.Fatal(err)
	}
	id := s.id
	t.Cleanup(func() {
		_ = s.kill() // perhaps once more
		if err := Delete(id); err != nil {
			t.Error(err)
		}
		gone(t, id)
	})
	return s, path
}

func TestADiskOutlivesItsProcessUnderLoad(t *testing.T) {
	const rounds = 20
	s, path := served(t, 32<<20)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				hammer(t, blockPath(s.id), 8, 4<<20, 20)
			}
		}
	}()
	for round := range rounds {
		before := requests(t, s.id)
		eventually(t, "the disk is used", func() bool { return requests(t, s.id) > before+50 })
		if err := s.kill(); err != nil {
			t.Fatal(err)
		}
		next, err := startServer(path, strconv.Itoa(s.id))
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		s.cmd, s.stdin = next.cmd, next.stdin
	}
	close(stop)
	<-ended
}

func TestProcessesThatAreKilledWhileTheyResumeLeaveADiskThatCanBeResumed(t *testing.T) {
	const rounds, latest = 60, 40 * time.Millisecond
	s, path := served(t, 1<<20)
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range rounds {
		// The moment is a matter of luck: before, while and after the process takes the disk over.
		ctx, cancel := context.WithTimeout(t.Context(), rand.N(latest))
		cmd := exec.CommandContext(ctx, self)
		cmd.Env = append(os.Environ(), serveVariable+"="+path, resumeVariable+"="+strconv.Itoa(s.id))
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Run(); err == nil {
			t.Error("the process was not killed")
		}
		cancel()
	}
	next, err := startServer(path, strconv.Itoa(s.id))
	if err != nil {
		t.Fatal(err)
	}
	s.cmd, s.stdin = next.cmd, next.stdin
	hammer(t, blockPath(s.id), 1, 1<<20, 10)
}

// requests is how many reads and writes of the disk have completed.
func requests(t *testing.T, id int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/sys/block/ublkb%d/stat", id))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(raw)) // Documentation/block/stat.rst
	reads, _ := strconv.Atoi(fields[0])
	writes, _ := strconv.Atoi(fields[4])
	return reads + writes
}

func TestRequestsOfAnOrphanWait(t *testing.T) {
	s, path := served(t, 1<<20)
	if err := os.WriteFile(path, random(1<<20, 3), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kernel has noticed", func() bool {
		i, err := Get(s.id)
		return err == nil && i.State == Orphaned
	})
	f := open(t, blockPath(s.id), os.O_RDONLY)
	defer f.Close()
	read := waitingRead(t, f, 8192)
	next, err := startServer(path, strconv.Itoa(s.id))
	if err != nil {
		t.Fatal(err)
	}
	s.cmd, s.stdin = next.cmd, next.stdin
	if r := <-read; r.err != nil || !bytes.Equal(r.bytes, random(1<<20, 3)[8192:8192+4096]) {
		t.Errorf("the read got other bytes (%v)", r.err)
	}
	f.Close()
	// A process that is told to end takes the disk with it.
	if err := errors.Join(s.stdin.Close(), s.cmd.Wait()); err != nil {
		t.Error(err)
	}
	gone(t, s.id)
}

// waitingRead reads from f on a thread of its own, and returns when it waits in the kernel.
func waitingRead(t *testing.T, f *os.File, off int64) <-chan readResult {
	t.Helper()
	result, thread := make(chan readResult, 1), make(chan int)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		b := pages(4096)
		_, err := f.ReadAt(b, off)
		result <- readResult{b, err}
	}()
	stat := fmt.Sprintf("/proc/self/task/%d/stat", <-thread)
	eventually(t, "the read waits", func() bool {
		raw, err := os.ReadFile(stat)
		if err != nil {
			t.Fatal(err)
		}
		_, fields, _ := strings.Cut(string(raw), ") ")
		return strings.HasPrefix(fields, "D")
	})
	return result
}

type readResult struct {
	bytes []byte
	err   error
}

func TestDeletingAnOrphanFailsWhatWaits(t *testing.T) {
	s, _ := served(t, 1<<20)
	f := open(t, blockPath(s.id), os.O_RDONLY)
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	failed := waitingRead(t, f, 0)
	if err := Delete(s.id); err != nil {
		t.Fatal(err)
	}
	if r := <-failed; !errors.Is(r.err, syscall.EIO) {
		t.Errorf("the reader sees %v", r.err)
	}
	f.Close()
}

func TestOnlyTheSameDeviceResumesADisk(t *testing.T) {
	s, path := served(t, 1<<20)
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dev := file{f}
	for name, c := range map[string]Config{
		"larger":                 {Device: newMemory(2 << 20)},
		"cannot be written to":   {Device: dev, ReadOnly: true},
		"more than was promised": {Device: newMemory(1 << 20)},
		"not made of blocks":     {Device: newMemory(1<<20 + 1)},
		"less than was promised": {Device: struct{ Device }{dev}},
		"there is none":          {},
		"a writer that is no more": {Device: struct {
			Device
			Writer
		}{dev, dev}},
	} {
		if d, err := Resume(context.Background(), s.id, c); err == nil {
			t.Errorf("%s: resumed", name)
			_ = d.Close()
		}
	}
	d, err := Resume(context.Background(), s.id, Config{Device: dev})
	if err != nil {
		t.Fatal(err)
	}
	readAt(t, open(t, d.Path(), os.O_RDONLY), 1<<20, 0)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestADiskWithoutRecoverEndsWithItsProcess(t *testing.T) {
	d := made(t, Config{Device: newMemory(1 << 20)})
	if _, err := Resume(context.Background(), d.ID(), Config{Device: newMemory(1 << 20)}); err == nil || !strings.Contains(err.Error(), "Config.Recover") {
		t.Errorf("Resume: %v", err)
	}
	if _, err := Resume(context.Background(), 1<<19, Config{Device: newMemory(1 << 20)}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Resume of a disk that does not exist: %v", err)
	}
}

// BenchmarkRandomReads reads 4 KiB at random places of a disk whose process is another, so many at a time.
func BenchmarkRandomReads(b *testing.B) {
	need(b)
	path := filepath.Join(b.TempDir(), "image")
	const size = 64 << 20
	if err := os.WriteFile(path, random(size, 4), 0o600); err != nil {
		b.Fatal(err)
	}
	s, err := startServer(path, "")
	if err != nil {
		b.Fatal(err)
	}
	for _, depth := range []int{1, 32} {
		b.Run(fmt.Sprintf("depth %d", depth), func(b *testing.B) {
			f, err := os.OpenFile(blockPath(s.id), os.O_RDONLY|unix.O_DIRECT, 0)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			start := time.Now()
			randomReads(b, f, size, depth)
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "reads/s")
		})
	}
	if err := errors.Join(s.stdin.Close(), s.cmd.Wait()); err != nil {
		b.Error(err)
	}
}

// randomReads does b.N reads of 4 KiB from the first size bytes of f.
func randomReads(b *testing.B, f *os.File, size int64, depth int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ring, err := uring.New(depth, uring.SingleIssuer|uring.DeferTaskrun)
	if err != nil {
		b.Fatal(err)
	}
	defer ring.Close()
	bufs := pages(depth * 4096)
	r := rand.New(rand.NewPCG(1, 2))
	read := func(slot uint64) {
		if err := ring.Read(int(f.Fd()), bufs[slot*4096:][:4096], r.Int64N(size/4096)*4096, slot); err != nil {
			b.Fatal(err)
		}
	}
	asked := min(depth, b.N)
	for slot := range asked {
		read(uint64(slot))
	}
	for done := 0; done < b.N; {
		if err := ring.Enter(1); err != nil {
			b.Fatal(err)
		}
		for c, ok := ring.Next(); ok; c, ok = ring.Next() {
			if c.Result != 4096 {
				b.Fatalf("a read returned %d", c.Result)
			}
			if done++; asked < b.N {
				asked++
				read(c.Data)
			}
		}
	}
}
