//go:build linux

package vm_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// fileSystem is a kind of file system: how a host makes one of a directory, and how a guest mounts it read-only.
type fileSystem struct {
	kind    string
	make    func(image, dir string) *exec.Cmd
	options string
}

var fileSystems = []fileSystem{
	{"erofs", func(image, dir string) *exec.Cmd { return exec.Command("mkfs.erofs", image, dir) }, "ro"},
	{"squashfs", func(image, dir string) *exec.Cmd { return exec.Command("mksquashfs", dir, image, "-quiet") }, "ro"},
	{"ext4", func(image, dir string) *exec.Cmd { return exec.Command("mkfs.ext4", "-q", "-d", dir, image, "16M") }, "ro,noload"},
}

// tree makes a directory with files of all sorts of sizes.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	seed := [32]byte{1}
	bytes := rand.NewChaCha8(seed)
	for i, size := range []int{0, 1, 4095, 4096, 65537, 1 << 20, 3 << 20} {
		b := make([]byte, size)
		bytes.Read(b)
		name := filepath.Join(dir, fmt.Sprintf("d%d", i%3), fmt.Sprintf("f%d", i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// sums are the lines that sha256sum prints of the files below dir, in order.
func sums(t *testing.T, dir string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		lines = append(lines, fmt.Sprintf("%x  ./%s", sha256.Sum256(b), name))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

// guestSums are sums of a directory in a guest.
func guestSums(t *testing.T, g *vm.Guest, dir string) []string {
	t.Helper()
	out := run(t, g, "sh", "-ec", "cd "+dir+"; find . -type f | xargs sha256sum")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(lines)
	return lines
}

// need skips the test, or fails it when DNBD_REQUIRE=1, if a program is not there.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatalf("DNBD_REQUIRE=1, and the program %s is missing", p)
		}
		t.Skipf("the program %s is missing", p)
	}
}

func TestAGuestMountsImagesOfTheGroup(t *testing.T) {
	need(t, "mkfs.erofs", "mksquashfs", "mkfs.ext4")
	t.Parallel()
	onEachKernel(t, func(t *testing.T, k vm.Kernel) {
		vm.Need(t)
		l := lab.ForTest(t, lab.Options{VMs: 1})
		source := tree(t)
		dir := t.TempDir()
		args := []string{}
		modules := []string{"fuse", "loop"}
		for _, f := range fileSystems {
			image := filepath.Join(dir, f.kind)
			if out, err := f.make(image, source).CombinedOutput(); err != nil {
				t.Fatalf("make %s: %v: %s", f.kind, err, out)
			}
			args, modules = append(args, image), append(modules, f.kind)
		}
		serve(t, l, "s1", args...)
		g := rack.Boot(t, k, vm.Options{Lab: l, Host: "v1", Modules: modules})
		want := sums(t, source)
		for _, f := range fileSystems {
			device := strings.TrimSpace(run(t, g, "dnbd", "attach", "--driver", "fuse", f.kind))
			run(t, g, "mount", "-t", f.kind, "-o", f.options, device, "/mnt")
			if got := guestSums(t, g, "/mnt"); !slices.Equal(got, want) {
				t.Errorf("%s on %s has\n%s\nwant\n%s", f.kind, device, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			run(t, g, "umount", "/mnt")
			run(t, g, "dnbd", "detach", device)
		}
		if err := g.PowerOff(within(t)); err != nil {
			t.Error(err)
		}
	})
}
