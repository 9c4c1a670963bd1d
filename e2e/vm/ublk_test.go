//go:build linux

package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// testProgram builds the tests of a package, and returns what has a guest have them as /tests.
func testProgram(t *testing.T, pkg string) map[string]string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tests")
	build := exec.Command("go", "test", "-c", "-o", path, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the tests of %s: %v: %s", pkg, err, out)
	}
	return map[string]string{"/tests": path}
}

func TestTheTestsOfUblkPass(t *testing.T) {
	for _, pkg := range []string{"ublk", "internal/attach/ublk"} {
		t.Run(pkg, func(t *testing.T) {
			t.Parallel()
			vm.Need(t)
			g := rack.Boot(t, vm.Backports, vm.Options{
				Loadable: []string{"ublk_drv"}, CPUs: 2, Memory: 512, Files: testProgram(t, "github.com/dnbd/dnbd/"+pkg),
			})
			p, err := g.Start(within(t), "env", "DNBD_REQUIRE_UBLK=1", "/tests", "-test.v")
			if err != nil {
				t.Fatal(err)
			}
			// They have a patience of their own.
			if _, err := p.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestImagesAreDevicesOfUblk(t *testing.T) {
	need(t, "mkfs.erofs")
	t.Parallel()
	vm.Need(t)
	l := lab.ForTest(t, lab.Options{VMs: 1})
	want := imageFor(t, l, "erofs")
	g := rack.Boot(t, vm.Backports, vm.Options{Lab: l, Host: "v1", Modules: []string{"erofs"}, Loadable: []string{"ublk_drv", "nbd"}})
	device := strings.TrimSpace(run(t, g, "dnbd", "attach", "erofs"))
	status := run(t, g, "dnbd", "status")
	if !strings.Contains(status, "driver ublk") || !strings.Contains(status, "/dev/ublkb0") {
		t.Errorf("of itself it took another driver than ublk: %s", status)
	}
	run(t, g, "mount", "-t", "erofs", "-o", "ro", device, "/mnt")
	if got := guestSums(t, g, "/mnt"); !slices.Equal(got, want) {
		t.Errorf("it has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := g.Run(within(t), "dnbd", "detach", device); err == nil || !strings.Contains(err.Error(), "mounted at /mnt") {
		t.Errorf("detached while it is mounted: %v", err)
	}
	run(t, g, "umount", "/mnt")
	run(t, g, "dnbd", "detach", device)
	if left := run(t, g, "sh", "-c", "ls -d /dev/dnbd* /dev/ublk[bc]* /run/dnbd/devices/* 2>/dev/null || true"); left != "" {
		t.Errorf("left: %s", left)
	}
}

func TestADeviceOfUblkOutlivesItsProcess(t *testing.T) {
	need(t, "mkfs.erofs")
	t.Parallel()
	vm.Need(t)
	l := lab.ForTest(t, lab.Options{VMs: 1})
	imageFor(t, l, "erofs")
	g := rack.Boot(t, vm.Backports, vm.Options{Lab: l, Host: "v1", Loadable: []string{"ublk_drv"}, CPUs: 2})
	attach := []string{"attach", "--driver", "ublk", "erofs", "/dev/disk"}
	run(t, g, "dnbd", attach...)
	want := strings.TrimSpace(run(t, g, "sh", "-c", "sha256sum < /dev/disk"))
	p := reader(t, g, "/dev/disk")
	for range killRounds {
		if err := g.Signal(within(t), attachment(t, g).PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		// The driver is the one that had the device.
		run(t, g, "dnbd", "attach", "--resume", "erofs", "/dev/disk")
		before := attachment(t, g).Attachment.Kernel.Requests
		await(t, "requests are answered", func() bool { return attachment(t, g).Attachment.Kernel.Requests > before })
	}
	enough(t, g, p, want)
	run(t, g, "dnbd", "detach", "/dev/disk")
}

func TestAWritableDeviceOfUblkOutlivesItsProcess(t *testing.T) {
	need(t, "nbdkit")
	t.Parallel()
	vm.Need(t)
	l := lab.ForTest(t, lab.Options{VMs: 1})
	server := startForeign(t, l, 16<<20, nil, nil)
	g := rack.Boot(t, vm.Backports, vm.Options{Lab: l, Host: "v1", Loadable: []string{"ublk_drv"}, CPUs: 2, Files: rack.Load()})
	attach := []string{"attach", "--driver", "ublk", server.uri(), "/dev/disk"}
	run(t, g, "dnbd", attach...)
	p, err := g.Start(within(t), "/load", "-time", "20s", "/dev/disk")
	if err != nil {
		t.Fatal(err)
	}
	for range killRounds {
		before := attachment(t, g).Attachment.Kernel.Requests
		await(t, "there is load", func() bool { return attachment(t, g).Attachment.Kernel.Requests > before+50 })
		if err := g.Signal(within(t), attachment(t, g).PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		run(t, g, "dnbd", append([]string{"attach", "--resume"}, attach[1:]...)...)
	}
	fine(t, g, p)
	run(t, g, "dnbd", "detach", "/dev/disk")
}

func TestADeviceOfUblkGoesByForce(t *testing.T) {
	need(t, "nbdkit")
	t.Parallel()
	vm.Need(t)
	l := lab.ForTest(t, lab.Options{VMs: 1})
	server := startForeign(t, l, 16<<20, nil, nil)
	g := rack.Boot(t, vm.Backports, vm.Options{Lab: l, Host: "v1", Loadable: []string{"ublk_drv"}})
	for _, c := range []struct {
		name string
		stop func()
	}{
		{"the server hangs", func() { server.signal(syscall.SIGSTOP) }},
		{"the process is dead", func() {
			server.signal(syscall.SIGCONT)
			if err := g.Signal(within(t), attachment(t, g).PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		server.signal(syscall.SIGCONT)
		run(t, g, "dnbd", "attach", "--driver", "ublk", server.uri(), "/dev/disk")
		c.stop()
		p, err := g.Start(within(t), "dd", "if=/dev/disk", "of=/dev/null", "iflag=direct", "bs=4k", "count=1")
		if err != nil {
			t.Fatal(err)
		}
		state := "/proc/" + strconv.Itoa(p.PID) + "/stat"
		await(t, c.name+": a reader waits", func() bool {
			return strings.Contains(run(t, g, "cat", state), ") D ")
		})
		run(t, g, "dnbd", "detach", "--force", "/dev/disk")
		if out, err := p.Wait(within(t)); err == nil {
			t.Errorf("%s: the reader has read %q", c.name, out)
		}
		if left := run(t, g, "sh", "-c", "ls -d /dev/disk /run/dnbd/devices/* 2>/dev/null || true"); left != "" {
			t.Errorf("%s: left: %s", c.name, left)
		}
	}
}
