//go:build linux

package vm_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/vm"
)

// TestSystemdServesMountsAndStopsInOrder has a machine serve an image to itself, and mount it by a line in its fstab.
func TestSystemdServesMountsAndStopsInOrder(t *testing.T) {
	vm.Need(t)
	need(t, "mkfs.ext4")
	debian := userland(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "film"), []byte("moving pictures"), 0o644); err != nil {
		t.Fatal(err)
	}
	films := filepath.Join(t.TempDir(), "films")
	if out, err := exec.Command("mkfs.ext4", "-q", "-L", "films", "-O", "^has_journal", "-d", source, films, "2M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	units := "../../boot/systemd/"
	g := rack.Boot(t, vm.Backports, vm.Options{
		Modules: []string{"fuse", "loop", "overlay", "erofs"}, Memory: 512, Disks: []vm.Disk{{Path: debian, ReadOnly: true}},
		Files: map[string]string{
			"/put/srv/films": films, "/put/usr/local/bin/dnbd": rack.Dnbd(),
			"/put/etc/systemd/system/dnbd@.service":      units + "dnbd@.service",
			"/put/etc/systemd/system/dnbd-serve.service": units + "dnbd-serve.service",
		},
	})
	_, err := g.Run(ctx, "sh", "-ec", overlayRoot+`
		ip link set lo up
		cp -r /put/. /new
		mkdir /new/films /new/etc/dnbd
		echo 'SERVE=--iface lo /srv/films' > /new/etc/dnbd/serve.conf
		echo 'FLAGS=--iface lo' > /new/etc/dnbd/films.conf
		echo 'LABEL=films /films ext4 ro,_netdev,x-systemd.requires=dnbd@films.service' > /new/etc/fstab
		mkdir -p /new/etc/systemd/system/multi-user.target.wants
		ln -s ../dnbd-serve.service /new/etc/systemd/system/multi-user.target.wants`, "sh", "/dev/vda")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.SwitchRoot(ctx, "/new", "/sbin/init"); err != nil {
		t.Fatal(err)
	}
	if err := logIn(ctx, g); err != nil {
		t.Fatal(err)
	}
	if got := run(t, g, "cat", "/proc/1/root/films/film"); got != "moving pictures" {
		t.Errorf("the film is %q", got)
	}
	if err := g.Type("systemctl poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := g.AwaitEnd(ctx); err != nil {
		t.Fatal(err)
	}
	said := g.Console()
	unmounted, detached := strings.Index(said, "Unmounted \x1b[0;1;39mfilms.mount"), strings.Index(said, "Stopped \x1b[0;1;39mdnbd@films.service")
	if unmounted < 0 || detached < unmounted || strings.Contains(said, "FAILED") {
		t.Errorf("it was unmounted at %d of the console, and detached at %d", unmounted, detached)
	}
}
