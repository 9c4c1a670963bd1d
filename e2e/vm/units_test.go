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

// managed is a guest that systemd runs, with dnbd and its units, and a network of its own alone. It is set up by a script, which
// finds the new root at /new, and it is logged in when this returns.
func managed(ctx context.Context, t *testing.T, k vm.Kernel, modules []string, files map[string]string, setUp string) *vm.Guest {
	t.Helper()
	units, err := filepath.Glob("../../dist/systemd/*")
	if err != nil || len(units) == 0 {
		t.Fatalf("there are no units: %v", err)
	}
	put := map[string]string{"/put/usr/local/bin/dnbd": rack.Dnbd()}
	for _, unit := range units {
		put["/put/usr/local/lib/systemd/system/"+filepath.Base(unit)] = unit
	}
	for name, file := range files {
		put["/put"+name] = file
	}
	g := rack.Boot(t, k, vm.Options{
		Modules: append(modules, "overlay", "erofs"), Memory: 512, Disks: []vm.Disk{{Path: userland(t), ReadOnly: true}}, Files: put,
	})
	if _, err := g.Run(ctx, "sh", "-ec", overlayRoot+"\nip link set lo up\ncp -r /put/. /new\n"+setUp, "sh", "/dev/vda"); err != nil {
		t.Fatal(err)
	}
	if err := g.SwitchRoot(ctx, "/new", "/sbin/init"); err != nil {
		t.Fatal(err)
	}
	if err := logIn(ctx, g); err != nil {
		t.Fatal(err)
	}
	return g
}

// inside runs a program in the system that has a guest now, which is to succeed.
func inside(t *testing.T, g *vm.Guest, name string, args ...string) string {
	t.Helper()
	return run(t, g, "chroot", append([]string{"/proc/1/root", "/usr/bin/env", "PATH=/usr/local/bin:/usr/bin:/usr/sbin", name}, args...)...)
}

// TestSystemdKeepsADeviceThatIsMounted has a machine serve an image to itself, mount it by a line in its fstab, lose the process of
// the device, and switch off.
func TestSystemdKeepsADeviceThatIsMounted(t *testing.T) {
	vm.Need(t)
	need(t, "mkfs.ext4")
	userland(t)
	t.Parallel()
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "film"), []byte("moving pictures"), 0o644); err != nil {
		t.Fatal(err)
	}
	films := filepath.Join(t.TempDir(), "films")
	if out, err := exec.Command("mkfs.ext4", "-q", "-d", source, films, "8M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	if err := os.Chmod(films, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kernel  vm.Kernel
		driver  string
		modules []string
	}{
		{vm.Backports, "ublk", []string{"ublk_drv", "ext4"}},
		{vm.Stable, "nbd", []string{"nbd", "ext4"}},
	} {
		t.Run(c.driver, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), bootTime)
			defer cancel()
			g := managed(ctx, t, c.kernel, c.modules, map[string]string{"/srv/films": films}, `
				mkdir -p /new/films /new/etc/dnbd /new/etc/systemd/system/dnbd-server.service.d
				dnbd key new /new/etc/dnbd/group.key
				sed -n 's/^#\t//p' /new/usr/local/lib/systemd/system/dnbd-server.service | grep -v ^SERVE= \
					> /new/etc/systemd/system/dnbd-server.service.d/key.conf
				echo 'SERVE=--iface lo /srv/films' > /new/etc/dnbd/server.conf
				echo 'FLAGS=--iface lo --timeout 1s --group-key /etc/dnbd/group.key --cow /var/lib/films.cow' > /new/etc/dnbd/films.conf
				echo '/run/dnbd/disk-films /films ext4 _netdev' > /new/etc/fstab
				chroot /new systemctl enable dnbd-server.service dnbd@films.service`)
			if got := inside(t, g, "cat", "/films/film"); got != "moving pictures" {
				t.Errorf("the film is %q", got)
			}
			if failed := inside(t, g, "systemctl", "--failed", "--plain", "--no-legend"); failed != "" {
				t.Errorf("failed: %s", failed)
			}
			if got := inside(t, g, "dnbd", "status"); !strings.Contains(got, "driver "+c.driver) {
				t.Errorf("the driver is another one: %s", got)
			}
			serverIsNobody(t, g)
			server := serverProcess(t, g)
			inside(t, g, "systemctl", "reload", "dnbd-server")
			if got := serverProcess(t, g); got != server {
				t.Errorf("process %s was to look at its images again, and now there is process %s", server, got)
			}
			if got := inside(t, g, "dnbd", "info", "nbd://127.0.0.1/films"); !strings.Contains(got, "films") {
				t.Errorf("the server's socket offers %q", got)
			}

			main := func() string {
				return strings.TrimSpace(inside(t, g, "systemctl", "show", "--value", "--property=MainPID", "dnbd@films"))
			}
			killed := main()
			inside(t, g, "sh", "-c", "echo written > /films/note; sync; echo after > /films/later")
			inside(t, g, "systemctl", "kill", "--signal=KILL", "--kill-whom=main", "dnbd@films")
			// It waits for the device, which has nobody behind it until systemd has started the process again.
			inside(t, g, "sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches; cat /films/film /films/note /films/later")
			if got := main(); got == killed || got == "0" {
				t.Errorf("process %s was killed, and now there is process %s", killed, got)
			}
			if got := inside(t, g, "cat", "/films/note", "/films/later"); got != "written\nafter\n" {
				t.Errorf("what was written is %q", got)
			}
			if err := g.Type("systemctl poweroff\n"); err != nil {
				t.Fatal(err)
			}
			if err := g.AwaitEnd(ctx); err != nil {
				t.Fatal(err)
			}
			said := g.Console()
			unmounted := strings.Index(said, "Unmounted \x1b[0;1;39mfilms.mount")
			detached := strings.Index(said, "Stopped \x1b[0;1;39mdnbd@films.service")
			if unmounted < 0 || detached < unmounted || strings.Contains(said, "FAILED") {
				t.Errorf("it was unmounted at %d of the console, and detached at %d", unmounted, detached)
			}
		})
	}
}

// serverProcess is the server's process id.
func serverProcess(t *testing.T, g *vm.Guest) string {
	t.Helper()
	return strings.TrimSpace(inside(t, g, "systemctl", "show", "--value", "--property=MainPID", "dnbd-server"))
}

// serverIsNobody checks that the server has no rights.
func serverIsNobody(t *testing.T, g *vm.Guest) {
	t.Helper()
	status := inside(t, g, "cat", "/proc/"+serverProcess(t, g)+"/status")
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch {
		case name == "Uid" && strings.HasPrefix(value, "0\t"):
			t.Error("the server is root")
		case (name == "CapEff" || name == "CapBnd") && strings.Trim(value, "0") != "":
			t.Errorf("the server has the capabilities %s", value)
		}
	}
}
