//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// serve starts a server and waits until it serves.
func (r *rig) serve(host string, args ...string) *process {
	r.t.Helper()
	p := r.dnbd(host, append([]string{"serve"}, args...)...)
	p.daemon = true
	p.await(p.out, "control ")
	return p
}

// attachment is a process that attaches an image in the foreground.
type attachment struct {
	*process
	host   string
	device string
}

// attach attaches an image on a host as a block device, and waits until it can be read. The flags stand in front.
func (r *rig) attach(host, image string, flags ...string) *attachment {
	r.t.Helper()
	a := r.attaching(host, image, flags...)
	a.await(a.out, a.device+"\n")
	return a
}

// attaching is attach that does not wait.
func (r *rig) attaching(host, image string, flags ...string) *attachment {
	r.t.Helper()
	needFUSE(r.t)
	a := &attachment{host: host, device: filepath.Join(r.dev, host)}
	args := append([]string{"attach", "--foreground"}, flags...)
	a.process = r.dnbd(host, append(args, image, a.device)...)
	a.daemon = true
	return a
}

// attachSocket attaches an image on a host as a socket, and returns its path.
func (r *rig) attachSocket(host, image string, flags ...string) (a *attachment, socket string) {
	r.t.Helper()
	socket = r.path(host + ".sock")
	args := append([]string{"attach", "--foreground", "--socket", socket}, flags...)
	a = &attachment{host: host, device: socket, process: r.dnbd(host, append(args, image)...)}
	a.daemon = true
	a.await(a.out, socket+"\n")
	return a, socket
}

// flush makes the kernel forget what it has read of the device, so that it is read again.
func (a *attachment) flush() {
	a.t.Helper()
	if out, err := exec.Command("blockdev", "--flushbufs", a.device).CombinedOutput(); err != nil {
		a.t.Fatalf("blockdev: %v: %s", err, out)
	}
}

// needFUSE skips the test, or fails it when DNBD_REQUIRE=1, where no block device can be made.
func needFUSE(t *testing.T) {
	t.Helper()
	for _, dev := range []string{"/dev/fuse", "/dev/loop-control"} {
		f, err := os.OpenFile(dev, os.O_RDWR, 0)
		if err == nil {
			f.Close()
			continue
		}
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatalf("DNBD_REQUIRE=1, and there are no block devices without %s: %v", dev, err)
		}
		t.Skipf("there are no block devices without %s: %v", dev, err)
	}
}

// mount mounts the file system on the device until the test ends, or the returned function is called.
func (a *attachment) mount(fs string) (dir string, unmount func()) {
	a.t.Helper()
	dir = a.rig.path("mnt-" + a.host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		a.t.Fatal(err)
	}
	device, err := filepath.EvalSymlinks(a.device)
	if err != nil {
		a.t.Fatal(err)
	}
	if err := unix.Mount(device, dir, fs, unix.MS_RDONLY, ""); err != nil {
		a.t.Fatalf("mount %s: %v", a.device, err)
	}
	mounted := true
	unmount = func() {
		if !mounted {
			return
		}
		mounted = false
		if err := unix.Unmount(dir, 0); err != nil {
			a.t.Errorf("unmount %s: %v", dir, err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	a.t.Cleanup(unmount)
	return dir, unmount
}

// compareFiles compares every n-th file of a directory, from the i-th on, with the same file of another.
func compareFiles(got, want string, paths []string, i, n int) error {
	for ; i < len(paths); i += n {
		a, err := os.ReadFile(filepath.Join(got, paths[i]))
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(want, paths[i]))
		if err != nil {
			return err
		}
		if string(a) != string(b) {
			return fmt.Errorf("%s: %w", paths[i], errWrong)
		}
	}
	return nil
}
