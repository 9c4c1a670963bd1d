//go:build linux

package vm_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// TestAnImageOfAnySizeCanBeWrittenTo writes to images whose last sector is not whole.
func TestAnImageOfAnySizeCanBeWrittenTo(t *testing.T) {
	t.Parallel()
	vm.Need(t)
	const size = 1<<20 + 700
	image := make([]byte, size)
	rand.NewChaCha8([32]byte{7}).Read(image)
	file := filepath.Join(t.TempDir(), "odd")
	if err := os.WriteFile(file, image, 0o644); err != nil {
		t.Fatal(err)
	}
	l := lab.ForTest(t, lab.Options{VMs: 1})
	serve(t, l, "s1", file)
	g := rack.Boot(t, vm.Backports, vm.Options{Lab: l, Host: "v1", Modules: []string{"nbd", "ublk_drv", "fuse", "loop"}})
	for _, driver := range []string{"nbd", "ublk", "fuse"} {
		run(t, g, "dnbd", "attach", "--driver", driver, "--cow", "/tmp/"+driver, "odd", "/dev/disk")
		if got := run(t, g, "blockdev", "--getsize64", "/dev/disk"); got != "1052672\n" {
			t.Errorf("%s: the device has %s bytes", driver, got)
		}
		write := func(text string, sector string) error {
			_, err := g.RunInput(within(t), []byte(text), "dd", "of=/dev/disk", "bs=512", "count=1", "seek="+sector, "conv=notrunc,fsync")
			return err
		}
		inside, behind := strings.Repeat("in", 256), strings.Repeat("be", 256)
		if err := write(inside, "2048"); err != nil {
			t.Errorf("%s: write before the last sector: %v", driver, err)
		}
		if err := write(behind, "2050"); err == nil {
			t.Errorf("%s: there is room for a write behind the image", driver)
		}
		run(t, g, "dnbd", "detach", "/dev/disk")
		run(t, g, "dnbd", "attach", "--driver", driver, "--cow", "/tmp/"+driver, "odd", "/dev/disk")
		got := run(t, g, "dd", "if=/dev/disk", "bs=512", "skip=2048")
		if want := inside + string(image[1<<20+512:]) + string(make([]byte, 4096-700)); got != want {
			t.Errorf("%s: the end of the device is %q, want %q", driver, got, want)
		}
		run(t, g, "dnbd", "detach", "/dev/disk")
	}
}
