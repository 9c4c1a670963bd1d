package ownroot

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// entered runs f on a thread with a root of its own. The thread ends with it.
func entered(t *testing.T, f func() error) error {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatal("DNBD_REQUIRE=1, and it needs root")
		}
		t.Skip("needs root")
	}
	ended := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := Enter()
		if err == nil {
			err = f()
		}
		ended <- err
	}()
	return <-ended
}

func TestTheRootIsInMemoryAndHasWhatTheKernelTells(t *testing.T) {
	before, err := filepath.Glob("/run/dnbd-root-*")
	if err != nil {
		t.Fatal(err)
	}
	run := filepath.Join("/run", filepath.Base(t.TempDir())+"-"+t.Name())
	if err := entered(t, func() error {
		var st unix.Statfs_t
		if err := unix.Statfs("/", &st); err != nil || st.Type != unix.TMPFS_MAGIC {
			return fmt.Errorf("the root has type %#x, %v", st.Type, err)
		}
		there, err := fs.Glob(os.DirFS("/"), "*")
		if got := strings.Join(there, " "); err != nil || got != "dev etc proc run sys" {
			return fmt.Errorf("there is %s, %v", got, err)
		}
		for _, name := range []string{"/dev/null", "/proc/self/exe", "/sys/block"} {
			if _, err := os.Stat(name); err != nil {
				return err
			}
		}
		mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(mounts)) {
			if point := strings.Fields(line)[4]; point != "/" && !strings.HasPrefix(point, "/dev") && point != "/proc" && point != "/run" && point != "/sys" {
				return fmt.Errorf("%s is mounted, too", point)
			}
		}
		return os.WriteFile(run, nil, 0o600)
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(run); err != nil {
		t.Errorf("what was written to /run is not there for others: %v", err)
	}
	if after, err := filepath.Glob("/run/dnbd-root-*"); err != nil || len(after) != len(before) {
		t.Errorf("left in /run: %v, %v", after, err)
	}
}

func TestACopyIsAsSecretAsWhatItWasMadeOf(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	if err := os.MkdirAll(filepath.Join(from, "dnbd"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "dnbd", "key"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("dnbd/key", filepath.Join(from, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(from, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(from, to); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(to, "link")); err != nil || string(got) != "secret" {
		t.Errorf("the key is %q, %v", got, err)
	}
	for name, want := range map[string]fs.FileMode{"dnbd": fs.ModeDir | 0o700, "dnbd/key": 0o600} {
		if info, err := os.Stat(filepath.Join(to, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if there, err := os.ReadDir(to); err != nil || len(there) != 2 {
		t.Errorf("there is %v, %v", there, err)
	}
	if err := copyTree(filepath.Join(from, "nothing"), filepath.Join(to, "nothing")); err != nil {
		t.Errorf("what is not there: %v", err)
	}
}
