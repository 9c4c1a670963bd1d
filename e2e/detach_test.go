//go:build linux

package e2e

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// leftDevice fails the test if something of a device is left.
func (r *rig) leftDevice(device string) {
	r.t.Helper()
	if _, err := os.Lstat(device); !errors.Is(err, fs.ErrNotExist) {
		r.t.Errorf("%s is left (%v)", device, err)
	}
}

func TestDetachOfAMountedDeviceIsRefusedAndNamesTheMount(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1})
	image, source := tree(t)
	r.serve("s1", image)
	a := r.attach("c1", "tree")
	dir, unmount := a.mount("erofs")
	said := r.dnbd("c1", "detach", a.device).fail(1)
	if !strings.Contains(said, "mounted at "+dir) {
		t.Errorf("detach says %q, want it to name %s", said, dir)
	}
	if err := compareFiles(dir, source, files(t, source), 0, 100); err != nil {
		t.Errorf("after a detach that was refused: %v", err)
	}
	unmount()
	r.dnbd("c1", "detach", a.device).succeed()
	if err := a.wait(); err != nil {
		t.Errorf("the process of a device that was detached ended with %v", err)
	}
	r.leftDevice(a.device)
}

func TestSIGTERMLeavesNothingAndWaitsForAMount(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1})
	image, source := tree(t)
	r.serve("s1", image)
	a := r.attach("c1", "tree")
	dir, unmount := a.mount("erofs")
	a.signal(syscall.SIGTERM)
	a.await(a.err, dir)
	if err := compareFiles(dir, source, files(t, source), 0, 100); err != nil {
		t.Errorf("after SIGTERM while mounted: %v", err)
	}
	unmount()
	if err := a.wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	r.leftDevice(a.device)
}

func TestAttachGoesToTheBackgroundAndDetachEndsIt(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	r := newRig(t, lab.Options{Clients: 1})
	image := film(t, mib)
	r.serve("s1", image)
	device := r.dev + "/background"
	if said := r.dnbd("c1", "attach", "film1024", device).succeed(); said != device+"\n" {
		t.Errorf("attach says %q, want the device", said)
	}
	if err := compare(device, image); err != nil {
		t.Error(err)
	}
	r.dnbd("c1", "detach", device).succeed()
	r.leftDevice(device)
	if pids := r.processes(); len(pids) != 1 { // the server
		t.Errorf("processes %v are left, want the server alone", pids)
	}
	if said := r.dnbd("c1", "detach", device).fail(1); !strings.Contains(said, device) {
		t.Errorf("detach of what is not attached says %q, want it to name the device", said)
	}
}
