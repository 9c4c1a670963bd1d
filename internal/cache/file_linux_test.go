package cache

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestANamedPipeIsRefusedWithoutWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, 1<<20, MinSlotSize, nil); err == nil || !strings.Contains(err.Error(), "neither a file nor a block device") {
		t.Errorf("Open: %v", err)
	}
	if _, err := Info(path); err == nil {
		t.Error("Info succeeded")
	}
}

// smallDisk is a directory on a filesystem of its own with room for 1 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatalf("mount tmpfs: %v", err)
		}
		t.Skipf("needs the right to mount a small filesystem: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func TestAFullDiskIsNoticedWhenTheFileIsMade(t *testing.T) {
	path := filepath.Join(smallDisk(t), "cache")
	if _, err := Open(path, 4<<20, MinSlotSize, nil); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Open of 4 MiB on a disk of 1 MiB: %v", err)
	}
	c, err := Open(path, 512<<10, MinSlotSize, nil) // what the first left is not in the way
	if err != nil {
		t.Fatal(err)
	}
	closeCache(t, c)
}

func TestAFailedWriteCostsAMissAndOneLogLine(t *testing.T) {
	path := filepath.Join(smallDisk(t), "cache")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(4<<20), f.Close()); err != nil { // all hole: writes fail once the disk is full
		t.Fatal(err)
	}
	var log lines
	c := mustOpen(t, path, log.log())
	defer closeCache(t, c)
	log.Reset()
	for i := range 500 {
		put(c, i, false)
	}
	n := readable(t, c, 0, 500)
	if st := c.Stats(); n == 0 || n == 500 || st.Used != n || log.count() != 1 || !strings.Contains(log.String(), "no space") {
		t.Errorf("%d of 500 blocks can be read, %+v, log:\n%s", n, st, &log)
	}
	checkInvariants(t, c)
}
