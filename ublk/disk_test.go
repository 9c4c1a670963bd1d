//go:build linux && (amd64 || arm64 || loong64 || riscv64)

package ublk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// need skips the test where the kernel has no ublk, or fails it where DNBD_REQUIRE_UBLK=1 says that it must: in the virtual
// machine in which these tests are run.
func need(t testing.TB) {
	t.Helper()
	if err := Available(); err != nil {
		if os.Getenv("DNBD_REQUIRE_UBLK") == "1" {
			t.Fatalf("%v, and DNBD_REQUIRE_UBLK=1", err)
		}
		t.Skip(err)
	}
}

// patience bounds what takes no time unless something is broken.
const patience = 30 * time.Second

// memory is a device with every capability, which remembers how it was used.
type memory struct {
	mu    sync.RWMutex
	bytes []byte
	calls []string
}

func newMemory(size int) *memory { return &memory{bytes: random(size, 1)} }

// random returns n bytes that do not repeat.
func random(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func (m *memory) Size() int64 { return int64(len(m.bytes)) }

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	copy(p, m.bytes[off:])
	return nil
}

// set replaces the bytes.
func (m *memory) set(b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes = b
}

// get returns a copy of the bytes.
func (m *memory) get() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return bytes.Clone(m.bytes)
}

func (m *memory) note(format string, args ...any) {
	m.calls = append(m.calls, fmt.Sprintf(format, args...))
}

// noted returns the calls since the last time.
func (m *memory) noted() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.calls
	m.calls = nil
	return calls
}

func (m *memory) WriteAt(_ context.Context, p []byte, off int64, fua bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.bytes[off:], p)
	m.note("write %d at %d fua %v", len(p), off, fua)
	return nil
}

func (m *memory) Flush(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("flush")
	return nil
}

func (m *memory) Trim(_ context.Context, off, n int64, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("trim %d at %d", n, off)
	for i := range m.bytes[off : off+n] {
		m.bytes[off+int64(i)] = 0xee
	}
	return nil
}

func (m *memory) WriteZeroes(_ context.Context, off, n int64, hole, fast, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("zero %d at %d hole %v fast %v", n, off, hole, fast)
	clear(m.bytes[off : off+n])
	return nil
}

// reader is a device that can only be read, by a function.
type reader struct {
	size int64
	read func(ctx context.Context, p []byte, off int64) error
}

func (r *reader) Size() int64 { return r.size }

func (r *reader) ReadAt(ctx context.Context, p []byte, off int64) error { return r.read(ctx, p, off) }

// made makes a disk until the test ends, after which it must be gone.
func made(t testing.TB, c Config) *Disk {
	t.Helper()
	need(t)
	d, err := New(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		gone(t, d.ID())
	})
	return d
}

// gone waits until there is no disk id.
func gone(t testing.TB, id int) {
	t.Helper()
	eventually(t, fmt.Sprintf("disk %d is gone", id), func() bool {
		_, err := Get(id)
		return errors.Is(err, os.ErrNotExist)
	})
}

// eventually waits until is is true.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after %v: %s", patience, what)
		}
	}
}

// open opens the disk at path, past the page cache.
func open(t testing.TB, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// pages returns n bytes that direct reads and writes can use.
func pages(n int) []byte {
	b := make([]byte, n+pageSize)
	past := int(uintptr(unsafe.Pointer(&b[0])) % pageSize)
	return b[pageSize-past : pageSize-past+n : pageSize-past+n]
}

// readAt reads n bytes at off.
func readAt(t testing.TB, f *os.File, n int, off int64) []byte {
	t.Helper()
	b := pages(n)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheDiskHasTheDevicesBytes(t *testing.T) {
	for _, c := range []Config{
		{},
		{Queues: 1, Depth: 1, MaxIO: 4096},
		{Queues: 2, Depth: 100, BlockSize: 4096, MaxIO: 1 << 20},
	} {
		t.Run(fmt.Sprintf("queues %d depth %d", c.Queues, c.Depth), func(t *testing.T) {
			m := newMemory(5 << 20)
			c.Device = m
			d := made(t, c)
			b := pages(len(m.bytes))
			f := open(t, d.Path(), os.O_RDONLY)
			if _, err := f.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, m.bytes) {
				t.Error("the disk has other bytes")
			}
			if _, err := f.ReadAt(b, int64(len(b))); !errors.Is(err, io.EOF) {
				t.Errorf("a read at the end: %v", err)
			}
		})
	}
}

func TestManyWritersAndReadersAtOnce(t *testing.T) {
	m := newMemory(64 << 20)
	for name, device := range map[string]Device{"by goroutines": m, "partly by the threads": prompt{m}} {
		t.Run(name, func(t *testing.T) {
			d := made(t, Config{Device: device, Queues: 2})
			hammer(t, d.Path(), 16, 4<<20, 150)
		})
	}
}

// prompt is a device to which the disk's threads make some writes themselves.
type prompt struct{ *memory }

func (prompt) Prompt(off, _ int64) bool { return off/sector%2 == 0 }

// hammer has writers write to and read from regions of their own, at random, and check what they read.
func hammer(t *testing.T, path string, writers int, region int64, rounds int) {
	t.Helper()
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			start := int64(w) * region
			want := make([]byte, region)
			b := pages(int(region))
			if _, err := f.ReadAt(b, start); err != nil {
				t.Error(err)
				return
			}
			copy(want, b)
			source := rand.NewChaCha8([32]byte{byte(w)})
			r := rand.New(source)
			for range rounds {
				n := (1 + r.Int64N(min(region, 256<<10)/sector)) * sector
				off := r.Int64N((region-n)/sector+1) * sector
				if r.IntN(2) == 0 {
					_, _ = source.Read(b[:n])
					copy(want[off:], b[:n])
					_, err = f.WriteAt(b[:n], start+off)
				} else if _, err = f.ReadAt(b[:n], start+off); err == nil && !bytes.Equal(b[:n], want[off:off+n]) {
					err = fmt.Errorf("%d bytes at %d are not what was written", n, start+off)
				}
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
			if _, err := f.ReadAt(b, start); err != nil || !bytes.Equal(b, want) {
				t.Errorf("writer %d: in the end its region is not what was written (%v)", w, err)
			}
		})
	}
	all.Wait()
}

func TestASlowRequestHoldsUpNoOther(t *testing.T) {
	const n = 32
	var gated atomic.Bool // once the kernel has looked for a partition table
	var arrived atomic.Int32
	all := make(chan struct{})
	d := made(t, Config{Queues: 1, Depth: n, Device: &reader{size: n * pageSize, read: func(ctx context.Context, _ []byte, _ int64) error {
		if !gated.Load() {
			return nil
		}
		if arrived.Add(1) == n {
			close(all)
		}
		select {
		case <-all:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}})
	gated.Store(true)
	var readers sync.WaitGroup
	for i := range n {
		readers.Go(func() {
			f, err := os.OpenFile(d.Path(), os.O_RDONLY|unix.O_DIRECT, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if _, err := f.ReadAt(pages(pageSize), int64(i)*pageSize); err != nil {
				t.Error(err)
			}
		})
	}
	readers.Wait()
	if got := arrived.Load(); got != n {
		t.Errorf("%d reads arrived", got)
	}
}

func TestFlushesAndForcedWritesReachTheDevice(t *testing.T) {
	m := newMemory(1 << 20)
	d := made(t, Config{Device: m})
	f := open(t, d.Path(), os.O_RDWR)
	m.noted()
	if _, err := f.WriteAt(pages(8192), 4096); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, d.Path(), os.O_RDWR|unix.O_DSYNC).WriteAt(pages(4096), 0); err != nil {
		t.Fatal(err)
	}
	want := "[write 8192 at 4096 fua false flush write 4096 at 0 fua true flush]" // the last one for O_DSYNC, too
	if got := fmt.Sprint(m.noted()); got != want {
		t.Errorf("calls were %s, want %s", got, want)
	}
}

func TestDiscardsAndZeroesReachTheDevice(t *testing.T) {
	m := newMemory(4 << 20)
	d := made(t, Config{Device: m})
	f := open(t, d.Path(), os.O_RDWR)
	m.noted()
	for _, c := range []struct {
		name string
		do   func(off, n uint64) error
		want string
		then byte
	}{
		{"BLKDISCARD", func(off, n uint64) error { return rangeIoctl(f, unix.BLKDISCARD, off, n) }, "trim %d at %d", 0xee},
		{"BLKZEROOUT", func(off, n uint64) error { return rangeIoctl(f, unix.BLKZEROOUT, off, n) }, "zero %d at %d hole false fast false", 0},
		{"fallocate", func(off, n uint64) error {
			return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
		}, "zero %d at %d hole true fast false", 0},
	} {
		const off, n = 1 << 20, 128 << 10
		before := random(4<<20, 2)
		m.set(bytes.Clone(before))
		if err := c.do(off, n); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got, want := fmt.Sprint(m.noted()), "["+fmt.Sprintf(c.want, n, off)+"]"; got != want {
			t.Errorf("%s: calls were %s, want %s", c.name, got, want)
		}
		copy(before[off:], bytes.Repeat([]byte{c.then}, n))
		if !bytes.Equal(readAt(t, f, len(before), 0), before) {
			t.Errorf("%s: the disk has other bytes than it should", c.name)
		}
	}
}

// rangeIoctl does an ioctl of a block device that takes an offset and a length.
func rangeIoctl(f *os.File, op uint, off, n uint64) error {
	span := [2]uint64{off, n}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(op), uintptr(unsafe.Pointer(&span))); errno != 0 {
		return errno
	}
	return nil
}

func TestAReadOnlyDiskCannotBeWritten(t *testing.T) {
	m := newMemory(1 << 20)
	d := made(t, Config{Device: m, ReadOnly: true})
	before := m.get()
	f, err := os.OpenFile(d.Path(), os.O_RDWR|unix.O_DIRECT, 0)
	if err == nil {
		_, err = f.WriteAt(pages(4096), 0)
		f.Close()
	}
	if !errors.Is(err, os.ErrPermission) {
		t.Errorf("a write: %v", err)
	}
	if calls := m.noted(); len(calls) > 0 || !bytes.Equal(m.get(), before) {
		t.Errorf("the device was changed: %v", calls)
	}
	if i, err := Get(d.ID()); err != nil || !i.ReadOnly {
		t.Errorf("Get: %+v, %v", i, err)
	}
}

func TestWhatADeviceCannotDoTheKernelDoes(t *testing.T) {
	m := newMemory(1 << 20)
	dev := struct {
		Device
		Writer
	}{m, m} // no flush, no trim, no zeroes
	d := made(t, Config{Device: dev})
	f := open(t, d.Path(), os.O_RDWR)
	m.noted()
	if err := rangeIoctl(f, unix.BLKDISCARD, 0, 4096); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("discard: %v", err)
	}
	if err := rangeIoctl(f, unix.BLKZEROOUT, 0, 4096); err != nil {
		t.Errorf("zero: %v", err)
	}
	if err := f.Sync(); err != nil {
		t.Errorf("sync: %v", err)
	}
	if got := fmt.Sprint(m.noted()); got != "[write 4096 at 0 fua false]" || !bytes.Equal(m.get()[:4096], make([]byte, 4096)) {
		t.Errorf("calls were %s", got)
	}
}

func TestErrorsOfTheDeviceReachTheReader(t *testing.T) {
	const bad = 512 << 10
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{errors.New("out of luck"), syscall.EIO},
		{fmt.Errorf("no room: %w", syscall.ENOSPC), syscall.ENOSPC},
		{fmt.Errorf("no answer: %w", syscall.ETIMEDOUT), syscall.ETIMEDOUT},
		{syscall.EAGAIN, syscall.EIO}, // which would mean something else
	} {
		d := made(t, Config{Device: &reader{1 << 20, func(_ context.Context, p []byte, off int64) error {
			if off+int64(len(p)) > bad {
				return c.err
			}
			return nil
		}}})
		f := open(t, d.Path(), os.O_RDONLY)
		if _, err := f.ReadAt(pages(4096), bad); !errors.Is(err, c.want) {
			t.Errorf("%v: the reader sees %v", c.err, err)
		}
		readAt(t, f, 4096, 0)
	}
}

// waiting is a device that answers nothing, once it is told to.
type waiting struct {
	size  int64
	stuck atomic.Bool
	came  chan struct{} // a read did
}

func newWaiting() *waiting { return &waiting{size: 1 << 20, came: make(chan struct{}, 1)} }

func (w *waiting) Size() int64 { return w.size }

func (w *waiting) ReadAt(ctx context.Context, _ []byte, _ int64) error {
	if !w.stuck.Load() {
		return nil
	}
	select {
	case w.came <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestCloseFailsWhatNeverEnds(t *testing.T) {
	w := newWaiting()
	d := made(t, Config{Device: w, Recover: true})
	f := open(t, d.Path(), os.O_RDONLY)
	w.stuck.Store(true)
	failed := make(chan error)
	go func() {
		_, err := f.ReadAt(pages(4096), 0)
		failed <- err
	}()
	<-w.came
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, syscall.EIO) {
		t.Errorf("the reader sees %v", err)
	}
	f.Close()
}

func TestNewGivesUpWhenTheDeviceDoesNotAnswer(t *testing.T) {
	need(t)
	w := newWaiting()
	w.stuck.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-w.came // the kernel looks for partitions
		cancel()
	}()
	before, err := List()
	if err != nil {
		t.Fatal(err)
	}
	if d, err := New(ctx, Config{Device: w}); !errors.Is(err, context.Canceled) {
		t.Errorf("New: %v, %v", d, err)
	}
	eventually(t, "no disk is left", func() bool {
		after, err := List()
		return err == nil && len(after) == len(before)
	})
}

func TestADiskThatOthersDeleteEnds(t *testing.T) {
	d := made(t, Config{Device: newMemory(1 << 20)})
	if err := Delete(d.ID()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.Done():
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
}

func TestInfoIsWhatWasAskedFor(t *testing.T) {
	m := newMemory(3 << 20)
	d := made(t, Config{Device: m, Recover: true, Tag: 1<<63 + 5, Depth: 7, Queues: 1, MaxIO: 64 << 10, BlockSize: 1024})
	want := Info{
		ID: d.ID(), State: Live, PID: os.Getpid(), Size: 3 << 20, BlockSize: 1024, Recoverable: true, Tag: 1<<63 + 5,
		Queues: 1, Depth: 7, MaxIO: 64 << 10,
	}
	if got, err := Get(d.ID()); err != nil || got != want {
		t.Errorf("Get: %+v, %v, want %+v", got, err, want)
	}
	all, err := List()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, i := range all {
		found = found || i == want
	}
	if !found {
		t.Errorf("List: %+v", all)
	}
	if _, err := Get(1 << 19); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Get of a disk that does not exist: %v", err)
	}
	if err := Delete(1 << 19); err != nil {
		t.Errorf("Delete of a disk that does not exist: %v", err)
	}
}

func TestADiskThatIsServedIsNotResumed(t *testing.T) {
	m := newMemory(1 << 20)
	d := made(t, Config{Device: m, Recover: true})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Resume(ctx, d.ID(), Config{Device: m}); !errors.Is(err, os.ErrExist) {
		t.Errorf("Resume: %v", err)
	}
	readAt(t, open(t, d.Path(), os.O_RDONLY), 4096, 0)
}

func TestNothingIsLeft(t *testing.T) {
	need(t)
	run := func() {
		d, err := New(context.Background(), Config{Device: newMemory(1 << 20)})
		if err != nil {
			t.Fatal(err)
		}
		f := open(t, d.Path(), os.O_RDONLY)
		readAt(t, f, 1<<20, 0)
		f.Close()
		if err := errors.Join(d.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
		gone(t, d.ID())
	}
	run()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 5 {
		run()
	}
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
	if now := openFiles(t); now != files {
		t.Errorf("%d files are open, there were %d", now, files)
	}
}

// openFiles counts the files that this process has open.
func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
