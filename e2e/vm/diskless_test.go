//go:build linux

package vm_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// userland is the image of a Debian that scripts/build-userland.sh has made.
func userland(t *testing.T) string {
	t.Helper()
	return prepared(t, "userland", "scripts/build-userland.sh", vm.Userland)
}

// prepared is the path of what a script has put there. The test is skipped where it has not, or fails when DNBD_REQUIRE=1.
func prepared(t *testing.T, what, script string, where func() (string, error)) string {
	t.Helper()
	path, err := where()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatalf("DNBD_REQUIRE=1, and there is no %s: run %s: %v", what, script, err)
		}
		t.Skipf("there is no %s: run %s: %v", what, script, err)
	}
	return path
}

// bootTime bounds a boot of Debian to its login, which takes half a minute when nothing else runs.
const bootTime = 10 * time.Minute

// overlayRoot is the script of that name.
const overlayRoot = vm.OverlayRoot

// logIn waits for the login of the userland on the console, and logs in.
func logIn(ctx context.Context, g *vm.Guest) error { return g.LogIn(ctx) }

func TestDisklessMachinesBootTogetherAndTheServerSendsOnce(t *testing.T) {
	const together = 4
	vm.Need(t)
	debian := userland(t)
	l := lab.ForTest(t, lab.Options{VMs: 1 + together})
	image := filepath.Join(t.TempDir(), "bookworm")
	if err := os.Symlink(debian, image); err != nil {
		t.Fatal(err)
	}
	serve(t, l, "s1", image)
	boot := func(hosts ...string) (sent int64, took time.Duration) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), bootTime)
		defer cancel()
		var guests []*vm.Guest
		for _, host := range hosts {
			guests = append(guests, rack.Boot(t, vm.Backports, vm.Options{
				Lab: l, Host: host, Modules: []string{"fuse", "loop", "overlay", "erofs"}, Memory: 512,
			}))
		}
		before, err := l.TxBytes("s1")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var all errgroup.Group
		for _, g := range guests {
			all.Go(func() error {
				if err := g.RootFromGroup(ctx, "bookworm"); err != nil {
					return err
				}
				return logIn(ctx, g)
			})
		}
		if err := all.Wait(); err != nil {
			t.Fatal(err)
		}
		took = time.Since(start)
		after, err := l.TxBytes("s1")
		if err != nil {
			t.Fatal(err)
		}
		for i, g := range guests {
			name := fmt.Sprintf("written by %d", i)
			run(t, g, "chroot", "/proc/1/root", "sh", "-ec", "cat /etc/debian_version; echo '"+name+"' > /etc/note")
			if got := strings.TrimSpace(run(t, g, "cat", "/proc/1/root/etc/note")); got != name {
				t.Errorf("a guest reads %q where it wrote %q", got, name)
			}
			if err := g.Kill(); err != nil {
				t.Error(err)
			}
		}
		return after - before, took
	}
	one, alone := boot("v1")
	many, all := boot("v2", "v3", "v4", "v5")
	t.Logf("one machine: %.1f MB, %.1f s; %d machines: %.1f MB, %.1f s: %.2f times the bytes", float64(one)/1e6, alone.Seconds(),
		together, float64(many)/1e6, all.Seconds(), float64(many)/float64(one))
	if float64(many) > 1.25*float64(one) {
		t.Errorf("%d machines cost the server %d bytes, one costs it %d; want at most 1.25 times as much", together, many, one)
	}
}
