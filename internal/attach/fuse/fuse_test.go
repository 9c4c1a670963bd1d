//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
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
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/attach"
	"golang.org/x/sys/unix"
)

// need skips the test where the machine lacks what it needs, or fails it where DNBD_REQUIRE=1 says that nothing may be
// missing.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if why := New("").Available(); why != nil {
		missing(t, why)
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing(t, err)
		}
	}
}

// missing skips or fails the test because of what the machine lacks.
func missing(t *testing.T, why error) {
	t.Helper()
	if os.Getenv("DNBD_REQUIRE") == "1" {
		t.Fatalf("%v, and DNBD_REQUIRE=1", why)
	}
	t.Skip(why)
}

// random returns n bytes that do not repeat.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// spot is where a test attaches: a driver's directory and a device path of its own.
type spot struct {
	dir, device string
}

func newSpot(t *testing.T) spot {
	dir := t.TempDir()
	return spot{dir: filepath.Join(dir, "run"), device: filepath.Join(dir, "dnbd0")}
}

func (p spot) attach(dev block.Device) (attach.Attachment, error) {
	return New(p.dir).Attach(context.Background(), dev, attach.Options{Device: p.device, Name: "test"})
}

// attached attaches dev until the test ends, after which nothing may be left.
func (p spot) attached(t *testing.T, dev block.Device) attach.Attachment {
	t.Helper()
	a, err := p.attach(dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		p.nothingLeft(t)
	})
	if h, err := a.Holders(); err != nil || len(h) > 0 { // this process above all must not be one
		t.Errorf("Holders of a new attachment = %q, %v", h, err)
	}
	return a
}

// nothingLeft checks that there is no mount, loop device, link or directory.
func (p spot) nothingLeft(t *testing.T) {
	t.Helper()
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(mounts, []byte(p.dir)) {
		t.Errorf("a mount is left (%v)", err)
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if name, _ := os.ReadFile(f); bytes.Contains(name, []byte(p.dir)) {
			t.Errorf("%s is left", f)
		}
	}
	if left, err := os.ReadDir(p.dir); err != nil || len(left) > 0 {
		t.Errorf("in %s are left %v (%v)", p.dir, left, err)
	}
	if _, err := os.Lstat(p.device); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left (%v)", p.device, err)
	}
}

// tree makes files of many sizes below dir.
func tree(t *testing.T, dir string) {
	t.Helper()
	for i := range 60 {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%7))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%d", i)), random(i*i*97), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// filesystem makes an image of the tree below dir.
func filesystem(t *testing.T, kind, dir string) []byte {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	cmd := exec.CommandContext(t.Context(), "mksquashfs", dir, image, "-quiet", "-no-progress", "-nopad")
	if kind == "erofs" {
		cmd = exec.CommandContext(t.Context(), "mkfs.erofs", image, dir)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mounted mounts the file system on device until the test ends, or unmount is called.
func mounted(t *testing.T, kind, device string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	err := unix.Mount(device, dir, kind, unix.MS_RDONLY, "")
	if errors.Is(err, unix.ENODEV) {
		missing(t, fmt.Errorf("this kernel has no %s", kind))
	}
	if err != nil {
		t.Fatalf("mount %s of type %s: %v", device, kind, err)
	}
	unmount = sync.OnceFunc(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	t.Cleanup(unmount)
	return dir, unmount
}

func TestFileSystemsOnTheDeviceHaveTheirFiles(t *testing.T) {
	need(t, "mksquashfs", "mkfs.erofs", "diff")
	source := t.TempDir()
	tree(t, source)
	for _, kind := range []string{"squashfs", "erofs"} {
		t.Run(kind, func(t *testing.T) {
			a := newSpot(t).attached(t, blocktest.NewMemory(filesystem(t, kind, source)))
			dir, _ := mounted(t, kind, a.Path())
			if out, err := exec.CommandContext(t.Context(), "diff", "-r", source, dir).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestTheDeviceIsTheImageWithZeroesUpToWholeSectors(t *testing.T) {
	need(t)
	for _, c := range []struct{ size, want int }{
		{1, 4096}, {511, 4096}, {512, 512}, {513, 4096}, {1536, 1536}, {4096, 4096}, {4097, 8192}, {3<<20 + 512, 3<<20 + 512},
	} {
		image := random(c.size)
		a := newSpot(t).attached(t, blocktest.NewMemory(image))
		want := append(bytes.Clone(image), make([]byte, c.want-c.size)...)
		got, err := os.ReadFile(a.Path())
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("an image of %d bytes: %d bytes or wrong ones, want %d (%v)", c.size, len(got), len(want), err)
		}
	}
}

func TestManyReadersSeeTheImage(t *testing.T) {
	need(t)
	image := random(32 << 20)
	a := newSpot(t).attached(t, blocktest.NewMemory(image))
	var wg sync.WaitGroup
	for seed := range uint64(8) {
		wg.Go(func() {
			f, err := os.Open(a.Path())
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			rng := rand.New(rand.NewPCG(seed, 1))
			buf := make([]byte, 200_000)
			for range 100 {
				off := rng.Int64N(int64(len(image)))
				n, err := f.ReadAt(buf, off)
				if err != nil && err != io.EOF || !bytes.Equal(buf[:n], image[off:off+int64(n)]) {
					t.Errorf("%d bytes at %d: wrong (%v)", n, off, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestReadsAreServedAtOnce(t *testing.T) {
	need(t)
	const readers = 8
	var mu sync.Mutex
	waiting := 0
	all := make(chan struct{})
	dev := blocktest.Faulty(blocktest.NewMemory(make([]byte, readers<<20)), func(block.Request) error {
		mu.Lock()
		if waiting++; waiting == readers {
			close(all) // nobody returns before all have come
		}
		mu.Unlock()
		<-all
		return nil
	})
	a := newSpot(t).attached(t, dev)
	var wg sync.WaitGroup
	for i := range int64(readers) {
		wg.Go(func() { direct(t, a.Path(), i<<20, 4096) })
	}
	wg.Wait()
}

// direct reads past the page cache.
func direct(t *testing.T, path string, off int64, n int) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(fd)
	buf, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON) // aligned
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Munmap(buf)
	if got, err := unix.Pread(fd, buf, off); err != nil || got != n {
		t.Errorf("read %d bytes at %d: %d, %v", n, off, got, err)
	}
}

func TestErrorsOfTheDeviceReachTheReader(t *testing.T) {
	need(t)
	image := random(4 << 20)
	bad := errors.New("worn out")
	a := newSpot(t).attached(t, blocktest.Faulty(blocktest.NewMemory(image), func(r block.Request) error {
		if r.Off+r.Len > 3<<20 {
			return bad
		}
		return nil
	}))
	f, err := os.Open(a.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 4096)
	if _, err := f.ReadAt(buf, 3<<20); !errors.Is(err, syscall.EIO) {
		t.Errorf("bad bytes: %v, want EIO", err)
	}
	if _, err := f.ReadAt(buf, 0); err != nil || !bytes.Equal(buf, image[:4096]) {
		t.Errorf("good bytes: %v", err)
	}
}

func TestABusyDeviceIsNotDetached(t *testing.T) {
	need(t, "mksquashfs")
	source := t.TempDir()
	tree(t, source)
	image := filesystem(t, "squashfs", source)
	p := newSpot(t)
	a := p.attached(t, blocktest.NewMemory(image))
	busy := func(want string) {
		t.Helper()
		err := a.Close()
		if !errors.Is(err, attach.ErrBusy) || !strings.Contains(err.Error(), want) {
			t.Errorf("Close = %v, want ErrBusy with %q", err, want)
		}
		if h, err := a.Holders(); err != nil || len(h) != 1 || !strings.Contains(h[0], want) {
			t.Errorf("Holders = %q, %v, want %q", h, err, want)
		}
	}
	self := attach.Process(os.Getpid())

	dir, unmount := mounted(t, "squashfs", a.Path())
	busy("mounted at " + dir)
	if _, err := os.ReadFile(filepath.Join(dir, "d3", "f59")); err != nil {
		t.Errorf("after a refused Close: %v", err)
	}
	unmount()

	for _, path := range []string{a.Path(), filepath.Join(a.(*attachment).place.diskPath())} {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		busy(self)
		unix.Close(fd)
		if path == a.Path() {
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got[:len(image)], image) {
				t.Errorf("after a refused Close: %v", err)
			}
		}
	}
	if err := a.Close(); err != nil {
		t.Errorf("Close at last: %v", err)
	}
	<-a.Done()
}

func TestADevicePathThatIsNotOursIsNotTaken(t *testing.T) {
	need(t)
	p := newSpot(t)
	if err := os.WriteFile(p.device, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.attach(blocktest.NewMemory(random(4096))); !errors.Is(err, os.ErrExist) {
		t.Errorf("a file: %v, want that it exists", err)
	}
	if got, _ := os.ReadFile(p.device); string(got) != "precious" {
		t.Errorf("the file is now %q", got)
	}
	if err := os.Remove(p.device); err != nil {
		t.Fatal(err)
	}
	p.nothingLeft(t)

	a := p.attached(t, blocktest.NewMemory(random(4096)))
	if _, err := p.attach(blocktest.NewMemory(random(4096))); err == nil || !strings.Contains(err.Error(), attach.Process(os.Getpid())) {
		t.Errorf("a live attachment: %v, want an error that names this process", err)
	}
	if _, err := os.ReadFile(a.Path()); err != nil {
		t.Errorf("the live attachment afterwards: %v", err)
	}
}

func TestWithoutAPathTheNextFreeDeviceIsTaken(t *testing.T) {
	need(t)
	d := New(t.TempDir())
	var paths []string
	for range 2 {
		a, err := d.Attach(t.Context(), blocktest.NewMemory(random(4096)), attach.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}()
		if !strings.HasPrefix(a.Path(), "/dev/dnbd") || slices.Contains(paths, a.Path()) {
			t.Errorf("got %s after %v", a.Path(), paths)
		}
		paths = append(paths, a.Path())
		if _, err := os.ReadFile(a.Path()); err != nil {
			t.Error(err)
		}
	}
}

// noticing is a device whose reads wait until their context ends, and tell of both.
type noticing struct {
	block.Device
	begun, ended chan struct{}
}

func (n *noticing) ReadAt(ctx context.Context, _ []byte, _ int64) error {
	n.begun <- struct{}{}
	<-ctx.Done()
	n.ended <- struct{}{}
	return fmt.Errorf("read: %w", ctx.Err())
}

// waiting starts a dd of path, of which the device hears, and sends it SIGTERM.
func waiting(t *testing.T, dev *noticing, path string, flags ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "dd", append(flags, "of=/dev/null", "bs=4096", "count=1", "if="+path)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-dev.begun
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// terminated waits for cmd, which must have ended by SIGTERM.
func terminated(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("%v ended with %v, want by SIGTERM", cmd.Args, err)
	}
}

func TestAReaderOfTheFileThatWaitsCanBeKilled(t *testing.T) {
	need(t, "dd")
	dev := &noticing{blocktest.NewMemory(make([]byte, 1<<20)), make(chan struct{}, 100), make(chan struct{}, 100)}
	a := newSpot(t).attached(t, dev)
	path := a.(*attachment).place.diskPath()
	cmd := waiting(t, dev, path, "iflag=direct")
	<-dev.ended // we are told that nobody waits for it any more
	terminated(t, cmd)
	terminated(t, waiting(t, dev, path))
}

func TestReadsThatNeverEndDoNotKeepTheDevice(t *testing.T) {
	need(t, "dd")
	dev := &noticing{blocktest.NewMemory(make([]byte, 1<<20)), make(chan struct{}, 100), make(chan struct{}, 100)}
	p := newSpot(t)
	a := p.attached(t, dev)
	// The kernel does not let the last one that has a block device open go before its reads have ended.
	cmd := waiting(t, dev, a.Path())
	for {
		err := a.Close() // until it has begun to die it is a holder
		if err == nil {
			break
		}
		if !errors.Is(err, attach.ErrBusy) {
			t.Fatal(err)
		}
	}
	terminated(t, cmd)
}

func TestAnAttachmentThatIsAbortedByOthersEnds(t *testing.T) {
	need(t)
	p := newSpot(t)
	a := p.attached(t, blocktest.NewMemory(random(4096)))
	a.(*attachment).mount.abort()
	<-a.Done()
}

func TestNoGoroutineIsLeft(t *testing.T) {
	need(t)
	before := runtime.NumGoroutine()
	p := newSpot(t)
	for range 3 {
		a, err := p.attach(blocktest.NewMemory(random(1 << 20)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.ReadFile(a.Path()); err != nil {
			t.Error(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// A goroutine that has done its last may still be on its way out.
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
		runtime.Gosched()
	}
	p.nothingLeft(t)
}

// victimDir and victimDevice tell the test binary to attach there and wait for its death.
const (
	victimDir    = "DNBD_TEST_VICTIM_DIR"
	victimDevice = "DNBD_TEST_VICTIM_DEVICE"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		p := spot{dir, os.Getenv(victimDevice)}
		if _, err := p.attach(blocktest.NewMemory(random(1 << 20))); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("attached")
		select {}
	}
	os.Exit(m.Run())
}

// killed attaches p in another process, which is then killed.
func (p spot) killed(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), victimDir+"="+p.dir, victimDevice+"="+p.device)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	if n, err := out.Read(line); err != nil || string(line[:n]) != "attached\n" {
		t.Fatalf("the victim says %q, %v", line[:n], err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

func TestLeftoversOfAKilledProcessAreReplaced(t *testing.T) {
	need(t)
	p := newSpot(t)
	p.killed(t)
	if _, err := os.Lstat(p.device); err != nil {
		t.Fatalf("the victim left nothing to clean: %v", err)
	}
	image := random(8192)
	a := p.attached(t, blocktest.NewMemory(image))
	if got, err := os.ReadFile(a.Path()); err != nil || !bytes.Equal(got, image) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestLeftoversCanBeCleanedUp(t *testing.T) {
	need(t)
	p := newSpot(t)
	p.killed(t)
	d := New(p.dir)
	for _, want := range []bool{true, false} {
		if found, err := d.Clean(p.device); found != want || err != nil {
			t.Fatalf("Clean = %v, %v, want %v", found, err, want)
		}
		p.nothingLeft(t)
	}
	a := p.attached(t, blocktest.NewMemory(random(4096)))
	if _, err := d.Clean(p.device); err == nil || !strings.Contains(err.Error(), attach.Process(os.Getpid())) {
		t.Errorf("Clean of a live attachment = %v, want an error that names this process", err)
	}
	if _, err := os.ReadFile(a.Path()); err != nil {
		t.Error(err)
	}
}

func TestLeftoversInUseAreKept(t *testing.T) {
	need(t)
	p := newSpot(t)
	p.killed(t)
	fd, err := unix.Open(p.device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.attach(blocktest.NewMemory(random(8192))); !errors.Is(err, attach.ErrBusy) {
		t.Errorf("Attach = %v, want ErrBusy", err)
	}
	unix.Close(fd)
	p.attached(t, blocktest.NewMemory(random(8192)))
}

func TestWhatEndedWithItsProcessIsNotResumed(t *testing.T) {
	p := newSpot(t)
	_, err := New(p.dir).Attach(t.Context(), blocktest.NewMemory(random(4096)), attach.Options{Device: p.device, Resume: true})
	if !errors.Is(err, attach.ErrNothingLeft) {
		t.Error(err)
	}
	if _, err := os.Lstat(p.device); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was made all the same (%v)", p.device, err)
	}
}
