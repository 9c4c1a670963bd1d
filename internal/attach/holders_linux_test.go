package attach

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestHoldersNameTheProcessThatHasTheFileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, link} {
		got, err := Holders(p)
		if err != nil || !slices.Equal(got, []string{Process(os.Getpid())}) {
			t.Errorf("Holders(%s) = %q, %v, want this process", p, got, err)
		}
	}
	f.Close()
	if got, err := Holders(path); err != nil || len(got) > 0 {
		t.Errorf("after closing: %q, %v", got, err)
	}
}

func TestMountPointsAreFoundByDeviceAndBySource(t *testing.T) {
	const mountinfo = `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 7:3 / /mnt/with\040space ro,relatime shared:5 - squashfs /dev/loop9 ro
31 22 0:40 / /mnt/b ro - btrfs /dev/dnbd0 rw
32 22 0:41 / /mnt/e ro master:1 propagate_from:2 - erofs /run/x/disk ro
nonsense
33 22 0:42 / /mnt/cut -
`
	u := use{
		paths:   map[string]bool{"/dev/dnbd0": true, "/run/x/disk": true},
		devices: map[string]bool{"7:3": true},
	}
	want := []string{"/mnt/with space", "/mnt/b", "/mnt/e"}
	if got := u.mountPoints(strings.NewReader(mountinfo)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
