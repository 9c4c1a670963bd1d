package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/block"
)

// loopDevice makes a block device of the file at path, which goes when the test ends.
func loopDevice(t *testing.T, path string) string {
	t.Helper()
	control, err := os.Open("/dev/loop-control")
	if err != nil {
		skip(t, fmt.Sprintf("needs root and loop devices: %v", err))
	}
	defer control.Close()
	backing, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			skip(t, fmt.Sprintf("needs root and loop devices: %v", err))
		}
		name := fmt.Sprintf("/dev/loop%d", n)
		device, err := os.OpenFile(name, os.O_RDWR, 0) // read-only here would be read-only for all
		if err != nil {
			skip(t, fmt.Sprintf("needs root and loop devices: %v", err))
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd())}
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if errors.Is(err, unix.EBUSY) { // someone else was faster
			device.Close()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { device.Close() })
		return name
	}
}

func TestABlockDeviceIsAnImage(t *testing.T) {
	data := randomBytes(300*512, 1) // not a multiple of the block size
	name := loopDevice(t, writeImage(t, data))
	// The sidecar goes beside the name that was given, here not in /dev.
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.Symlink(name, path); err != nil {
		t.Fatal(err)
	}
	created := mustCreate(t, path, CreateOptions{})
	if want := build(t, data, DefaultBlockSize).Root(); created.Descriptor().Root != want {
		t.Errorf("root %v, want that of the file, %v", created.Descriptor().Root, want)
	}
	m := mustOpen(t, path)
	p := make([]byte, DefaultBlockSize)
	n, err := m.ReadBlock(2, p)
	if err != nil || !bytes.Equal(p[:n], data[2*DefaultBlockSize:]) {
		t.Errorf("the last block: %d bytes, %v", n, err)
	}
	if stale, err := m.Stale(); stale || err != nil {
		t.Errorf("Stale() = %v, %v", stale, err)
	}
	// A device has no time that would tell that it was written to; the hash does.
	device, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := device.WriteAt([]byte{data[0] ^ 1}, 0); err != nil {
		t.Fatal(err)
	}
	if err := device.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := mustOpen(t, path).ReadBlock(0, p); !errors.Is(err, block.ErrCorrupt) {
		t.Errorf("ReadBlock of what was written to = %v, want block.ErrCorrupt", err)
	}
}

func TestAFileThatMayNotBeReadIsRefusedByName(t *testing.T) {
	path := writeImage(t, []byte("x"))
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	// Root may read everything: another user's eyes are borrowed, for this thread only, which ends with its goroutine.
	var err error
	var wg sync.WaitGroup
	wg.Go(func() {
		if os.Geteuid() == 0 {
			runtime.LockOSThread()
			if err := unix.Setfsuid(65534); err != nil {
				t.Error(err)
			}
		}
		_, err = Open(path)
	})
	wg.Wait()
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "make it readable") {
		t.Errorf("Open = %v, want a refusal that names the file and the way out", err)
	}
}
