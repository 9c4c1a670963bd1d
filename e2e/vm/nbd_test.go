//go:build linux

package vm_test

import (
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
	"github.com/dnbd/dnbd/internal/control"
)

// imageFor makes an image of a file system of kind and serves it to the group; it returns the sums of its files.
func imageFor(t *testing.T, l *lab.Lab, kind string) []string {
	t.Helper()
	source := tree(t)
	image := t.TempDir() + "/" + kind
	for _, f := range fileSystems {
		if f.kind != kind {
			continue
		}
		if out, err := f.make(image, source).CombinedOutput(); err != nil {
			t.Fatalf("make %s: %v: %s", kind, err, out)
		}
	}
	serve(t, l, "s1", image)
	return sums(t, source)
}

func TestImagesAreDevicesOfTheKernelsNBDDriver(t *testing.T) {
	need(t, "mkfs.erofs")
	t.Parallel()
	onEachKernel(t, func(t *testing.T, k vm.Kernel) {
		vm.Need(t)
		l := lab.ForTest(t, lab.Options{VMs: 1})
		want := imageFor(t, l, "erofs")
		g := rack.Boot(t, k, vm.Options{Lab: l, Host: "v1", Modules: []string{"erofs"}, Loadable: []string{"nbd"}})
		device := strings.TrimSpace(run(t, g, "dnbd", "attach", "--driver", "nbd", "erofs"))
		t.Log(run(t, g, "dnbd", "status"))
		run(t, g, "mount", "-t", "erofs", "-o", "ro", device, "/mnt")
		if got := guestSums(t, g, "/mnt"); !slices.Equal(got, want) {
			t.Errorf("it has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if _, err := g.Run(within(t), "dnbd", "detach", device); err == nil || !strings.Contains(err.Error(), "mounted at /mnt") {
			t.Errorf("detached while it is mounted: %v", err)
		}
		run(t, g, "umount", "/mnt")
		run(t, g, "dnbd", "detach", device)
		if got := run(t, g, "sh", "-c", "ls -l /dev/dnbd* 2>&1; cat /sys/block/nbd0/pid 2>&1; ls /run/dnbd"); strings.Contains(got, "->") {
			t.Errorf("left: %s", got)
		}
	})
}

// attachment is what dnbd status says of the only attachment in a guest. On a busy machine it may take some tries.
func attachment(t *testing.T, g *vm.Guest) control.Status {
	t.Helper()
	var all struct {
		Attachments []control.Status `json:"attachments"`
	}
	await(t, "dnbd status shows the attachment", func() bool {
		out, err := g.Run(within(t), "dnbd", "status", "--json")
		return err == nil && json.Unmarshal([]byte(out), &all) == nil && len(all.Attachments) == 1
	})
	return all.Attachments[0]
}

// reader is a program in a guest that reads a device over and over, past the cache, and prints the sum of what it read.
func reader(t *testing.T, g *vm.Guest, device string) *vm.Process {
	t.Helper()
	p, err := g.Start(within(t), "sh", "-c",
		"while [ ! -e /tmp/enough ]; do dd if="+device+" iflag=direct bs=256k 2>/tmp/dd.log | sha256sum || cat /tmp/dd.log; done")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// enough ends a reader, and checks that it never read anything but want, at least twice.
func enough(t *testing.T, g *vm.Guest, p *vm.Process, want string) {
	t.Helper()
	run(t, g, "touch", "/tmp/enough")
	out, err := p.Wait(within(t))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for _, line := range lines {
		if line != want {
			t.Errorf("a reader has read %s, want %s", line, want)
		}
	}
	if len(lines) < 2 {
		t.Errorf("a reader has read %d times", len(lines))
	}
	if bad := run(t, g, "sh", "-c", "dmesg | grep -i 'I/O error' || true"); bad != "" {
		t.Errorf("the kernel reports %s", bad)
	}
}

// killRounds is how often a test kills the process of a device that is in use.
const killRounds = 4

func TestADeviceOutlivesItsProcess(t *testing.T) {
	need(t, "mkfs.erofs")
	t.Parallel()
	onEachKernel(t, func(t *testing.T, k vm.Kernel) {
		vm.Need(t)
		l := lab.ForTest(t, lab.Options{VMs: 1})
		imageFor(t, l, "erofs")
		g := rack.Boot(t, k, vm.Options{Lab: l, Host: "v1", Loadable: []string{"nbd"}, CPUs: 2})
		attach := []string{"attach", "--driver", "nbd", "--timeout", "1s", "erofs", "/dev/disk"}
		run(t, g, "dnbd", attach...)
		want := strings.TrimSpace(run(t, g, "sh", "-c", "sha256sum < /dev/disk"))
		p := reader(t, g, "/dev/disk")
		for range killRounds {
			if err := g.Signal(within(t), attachment(t, g).PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			run(t, g, "dnbd", append([]string{"attach", "--resume"}, attach[1:]...)...)
			before := attachment(t, g).Attachment.Kernel.Requests
			await(t, "requests are answered", func() bool { return attachment(t, g).Attachment.Kernel.Requests > before })
		}
		enough(t, g, p, want)
		run(t, g, "dnbd", "detach", "/dev/disk")
	})
}

// await waits until something is so.
func await(t testing.TB, what string, so func() bool) {
	t.Helper()
	ctx := within(t)
	for !so() {
		select {
		case <-ctx.Done():
			t.Fatalf("not after %v: %s", patience, what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
