//go:build linux

package ublk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/attach/claim"
	"github.com/dnbd/dnbd/ublk"
)

// need skips the test where the kernel has no ublk, or fails it where DNBD_REQUIRE_UBLK=1 says that it must: in the virtual
// machine in which these tests are run.
func need(t *testing.T) {
	t.Helper()
	if err := New("").Available(); err != nil {
		if os.Getenv("DNBD_REQUIRE_UBLK") == "1" {
			t.Fatalf("%v, and DNBD_REQUIRE_UBLK=1", err)
		}
		t.Skip(err)
	}
}

// random returns n bytes that do not repeat, the same ones each time.
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
	need(t)
	dir := t.TempDir()
	s := spot{dir: filepath.Join(dir, "run"), device: filepath.Join(dir, "dnbd0")}
	before := disks(t)
	t.Cleanup(func() { s.nothingLeft(t, before) })
	return s
}

func disks(t *testing.T) int {
	t.Helper()
	all, err := ublk.List()
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// nothingLeft checks that there is no disk, link or directory more than before.
func (s spot) nothingLeft(t *testing.T, before int) {
	t.Helper()
	eventually(t, "the disks are gone", func() bool { return disks(t) <= before })
	if left, err := os.ReadDir(s.dir); err == nil && len(left) > 0 {
		t.Errorf("in %s are left %v", s.dir, left)
	}
	if _, err := os.Lstat(s.device); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left (%v)", s.device, err)
	}
}

// eventually waits until is is true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after a long time: %s", what)
		}
	}
}

func (s spot) attach(dev block.Device, o attach.Options) (attach.Attachment, error) {
	o.Device = s.device
	return New(s.dir).Attach(context.Background(), dev, o)
}

// attached attaches dev until the test ends.
func (s spot) attached(t *testing.T, dev block.Device) attach.Attachment {
	t.Helper()
	a, err := s.attach(dev, attach.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	if h, err := a.Holders(); err != nil || len(h) > 0 { // this process above all must not be one
		t.Errorf("Holders of a new attachment = %q, %v", h, err)
	}
	return a
}

func TestTheDeviceIsTheImageWithZeroesUpToWholeSectors(t *testing.T) {
	for _, size := range []int{512, 4096 + 512, 1<<20 + 1, 1 << 20, 100} {
		image := random(size)
		a := newSpot(t).attached(t, blocktest.NewMemory(image))
		got, err := os.ReadFile(a.Path())
		if err != nil {
			t.Fatal(err)
		}
		want := image
		if size%512 != 0 {
			want = append(bytes.Clone(image), make([]byte, 4096-size%4096)...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("an image of %d bytes: the device has %d, or others than it should", size, len(got))
		}
	}
}

func TestWhatIsWrittenIsInTheDevice(t *testing.T) {
	for _, size := range []int64{1 << 20, 1<<20 + 1} {
		dev := blocktest.NewDisk(size)
		a := newSpot(t).attached(t, dev)
		f, err := os.OpenFile(a.Path(), os.O_RDWR|unix.O_SYNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, off := range []int64{4097, size - 5} {
			if _, err := f.WriteAt([]byte("hello"), off); err != nil {
				t.Errorf("a device of %d bytes: write at %d: %v", size, off, err)
			}
			got := make([]byte, 5)
			if err := dev.ReadAt(t.Context(), got, off); err != nil || string(got) != "hello" {
				t.Errorf("a device of %d bytes: at %d is %q (%v)", size, off, got, err)
			}
		}
		if _, err := f.WriteAt([]byte("x"), size); err == nil {
			t.Errorf("a device of %d bytes: written behind its end", size)
		}
		f.Close()
	}
}

func TestABusyDeviceIsNotDetached(t *testing.T) {
	a := newSpot(t).attached(t, blocktest.NewMemory(random(1<<20)))
	f, err := os.Open(a.Path())
	if err != nil {
		t.Fatal(err)
	}
	err = a.Close()
	if !errors.Is(err, attach.ErrBusy) || !strings.Contains(err.Error(), attach.Process(os.Getpid())) {
		t.Errorf("Close: %v, want one that names this process", err)
	}
	if _, err := f.ReadAt(make([]byte, 4096), 4096); err != nil {
		t.Errorf("and afterwards it does not work: %v", err)
	}
	f.Close()
}

func TestADeviceInUseGoesByForce(t *testing.T) {
	var stuck atomic.Bool
	came := make(chan struct{}, 1)
	dev := block.Around(blocktest.NewMemory(random(1<<20)), func(ctx context.Context, _ block.Request, do func() error) error {
		if !stuck.Load() {
			return do()
		}
		select {
		case came <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return ctx.Err()
	})
	a := newSpot(t).attached(t, dev)
	f, err := os.Open(a.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stuck.Store(true)
	failed := make(chan error)
	go func() {
		_, err := f.ReadAt(make([]byte, 4096), 512<<10)
		failed <- err
	}()
	<-came
	if i := a.(attach.Inspector).Inspect(); i.Outstanding == 0 || i.Oldest == 0 || i.Kernel == "" {
		t.Errorf("while a read waits: %+v", i)
	}
	if err := a.(attach.Forcer).Force(); err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, unix.EIO) {
		t.Errorf("the reader sees %v", err)
	}
}

func TestADevicePathThatIsNotOursIsNotTaken(t *testing.T) {
	s := newSpot(t)
	if err := os.WriteFile(s.device, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := s.attach(blocktest.NewMemory(random(4096)), attach.Options{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("attached %v, %v", a, err)
	}
	if kept, err := os.ReadFile(s.device); string(kept) != "precious" {
		t.Errorf("the file has %q, %v", kept, err)
	}
	if err := os.Remove(s.device); err != nil {
		t.Fatal(err)
	}
}

// The process that attaches and is killed is this program with these variables.
const (
	victimDir    = "DNBD_TEST_VICTIM_DIR"
	victimDevice = "DNBD_TEST_VICTIM_DEVICE"
	victimSize   = 1 << 20
	victimID     = "the image"
)

func TestMain(m *testing.M) {
	dir := os.Getenv(victimDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	s := spot{dir, os.Getenv(victimDevice)}
	if _, err := s.attach(blocktest.NewMemory(random(victimSize)), attach.Options{ID: victimID}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

// killed has a process attach, which is killed then.
func (s spot) killed(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), victimDir+"="+s.dir, victimDevice+"="+s.device)
	if out, err := cmd.CombinedOutput(); err == nil || len(out) > 0 {
		t.Fatalf("the process was not killed: %v, %s", err, out)
	}
}

func TestADeviceIsResumed(t *testing.T) {
	s := newSpot(t)
	s.killed(t)
	f, err := os.Open(s.device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := make(chan error)
	b := make([]byte, 4096)
	go func() {
		_, err := f.ReadAt(b, 512<<10)
		read <- err
	}()
	dev := blocktest.NewMemory(random(victimSize))
	if _, err := s.attach(dev, attach.Options{ID: "another image", Resume: true}); err == nil || !strings.Contains(err.Error(), victimID) {
		t.Errorf("resumed with another image: %v", err)
	}
	if err := os.Remove(s.device); err != nil { // as somebody may
		t.Fatal(err)
	}
	a, err := s.attach(dev, attach.Options{ID: victimID, Resume: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil || !bytes.Equal(b, random(victimSize)[512<<10:][:4096]) {
		t.Errorf("what waited got %v, or other bytes", err)
	}
	f.Close()
	if got, err := os.ReadFile(s.device); err != nil || !bytes.Equal(got, random(victimSize)) {
		t.Errorf("the device has other bytes (%v)", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestNothingIsResumedWhereThereIsNothing(t *testing.T) {
	s := newSpot(t)
	if _, err := s.attach(blocktest.NewMemory(random(4096)), attach.Options{Resume: true}); err == nil || !strings.Contains(err.Error(), "attach it anew") {
		t.Error(err)
	}
	if found, err := New(s.dir).Clean(s.device); err != nil {
		t.Errorf("clean up afterwards: %v, %v", found, err)
	}
}

func TestLeftoversOfAKilledProcessAreReplaced(t *testing.T) {
	s := newSpot(t)
	s.killed(t)
	image := random(8192)
	a := s.attached(t, blocktest.NewMemory(image))
	if got, err := os.ReadFile(a.Path()); err != nil || !bytes.Equal(got, image) {
		t.Errorf("the device has other bytes (%v)", err)
	}
}

func TestASearchPassesBySomethingToResume(t *testing.T) {
	s := newSpot(t)
	s.killed(t)
	_, err := New(s.dir).attach(t.Context(), ublk.Config{Device: blocktest.NewMemory(random(4096))}, attach.Options{Device: s.device}, true)
	if !errors.Is(err, claim.ErrTaken) {
		t.Errorf("taken: %v", err)
	}
	if found, err := New(s.dir).Clean(s.device); err != nil || !found {
		t.Errorf("Clean: %v, %v", found, err)
	}
}

func TestLeftoversAreCleanedUpUnlessSomebodyUsesThem(t *testing.T) {
	s := newSpot(t)
	if found, err := New(s.dir).Clean(s.device); found || err != nil {
		t.Errorf("Clean of nothing: %v, %v", found, err)
	}
	s.killed(t)
	f, err := os.Open(s.device)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := New(s.dir).Clean(s.device); !found || !errors.Is(err, attach.ErrBusy) {
		t.Errorf("Clean of what is open: %v, %v", found, err)
	}
	if found, err := New(s.dir).ForceClean(s.device); !found || err != nil {
		t.Errorf("ForceClean: %v, %v", found, err)
	}
	if _, err := f.ReadAt(make([]byte, 4096), 0); err == nil {
		t.Error("it can be read afterwards")
	}
	f.Close()
	if found, err := New(s.dir).Clean(s.device); found || err != nil {
		t.Errorf("Clean afterwards: %v, %v", found, err)
	}
}
