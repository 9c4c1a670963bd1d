package socket

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/attach"
)

var image = bytes.Repeat([]byte("What a reader reads. "), 50_000)

// attached attaches image at path.
func attached(t *testing.T, path string) attach.Attachment {
	t.Helper()
	a, err := New("").Attach(t.Context(), blocktest.NewMemory(image), attach.Options{Socket: path, Name: "image"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
			t.Errorf("%v is left behind", left)
		}
	})
	return a
}

func TestTheSocketServesTheDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	a := attached(t, path)
	if a.Path() != path || a.Driver() != "socket" {
		t.Errorf("Path() = %s, Driver() = %s", a.Path(), a.Driver())
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, %v, want a socket with 0600", st.Mode(), err)
	}
	program := "nbdcopy"
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatal("nbdcopy is not installed, and DNBD_REQUIRE=1")
		}
		t.Skip("nbdcopy is not installed")
	}
	dest := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.CommandContext(t.Context(), program, "nbd+unix:///?socket="+path, dest).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, err := os.ReadFile(dest); err != nil || !bytes.Equal(got, image) {
		t.Errorf("wrong bytes (%v)", err)
	}
}

func TestWithoutAPathTheSocketIsNamedAfterTheImage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	a, err := New(dir).Attach(t.Context(), blocktest.NewMemory(image), attach.Options{Name: "debian"})
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "debian.sock"); a.Path() != want {
		t.Errorf("Path() = %s, want %s", a.Path(), want)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseIsRefusedWhileSomebodyIsConnected(t *testing.T) {
	a := attached(t, filepath.Join(t.TempDir(), "s"))
	conn, err := net.Dial("unix", a.Path())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 18)); err != nil { // the server has accepted it
		t.Fatal(err)
	}
	self := attach.Process(os.Getpid())
	if err := a.Close(); !errors.Is(err, attach.ErrBusy) || !strings.Contains(err.Error(), self) {
		t.Errorf("Close = %v, want ErrBusy with %s", err, self)
	}
	if _, err := conn.Write([]byte{0, 0, 0, 4}); err != nil { // unknown flags, so that the server hangs up
		t.Fatal(err)
	}
	for _, err := conn.Read(make([]byte, 1)); err == nil; _, err = conn.Read(make([]byte, 1)) {
	}
	conn.Close()
	for {
		err := a.Close()
		if err == nil {
			break
		}
		if !errors.Is(err, attach.ErrBusy) {
			t.Fatal(err)
		}
	}
	<-a.Done()
}

func TestWhatIsAtThePathIsOnlyReplacedWhenItIsDead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	attachAt := func() error {
		a, err := New("").Attach(context.Background(), blocktest.NewMemory(image), attach.Options{Socket: path})
		if err != nil {
			return err
		}
		return a.Close()
	}

	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := attachAt(); err == nil || !strings.Contains(err.Error(), attach.Process(os.Getpid())) {
		t.Errorf("a live socket: %v, want an error that names this process", err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := attachAt(); err != nil {
		t.Errorf("a dead socket: %v", err)
	}

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := attachAt(); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v, want an error", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "precious" {
		t.Errorf("the file is now %q", got)
	}
	for _, path = range []string{
		filepath.Join(dir, strings.Repeat("x", maxPath)),
		filepath.Join(dir, "nosuch", "s"),
	} {
		if err := attachAt(); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error that names it", path, err)
		}
	}
}
