//go:build linux

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/e2e/lab"
)

// rig is a network with what a test runs in it.
type rig struct {
	t   *testing.T
	lab *lab.Lab
	dir string // for what the test makes; its path is short, for sockets
	run string // where its processes have their control sockets
	dev string // for its devices

	killed bool // a process, so that its socket may be left
}

// newRig makes a network. At its end nothing of what ran in it may be left.
func newRig(t *testing.T, o lab.Options) *rig {
	t.Helper()
	r := &rig{t: t, lab: lab.ForTest(t, o)}
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.leftovers()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	r.dir, r.run, r.dev = dir, filepath.Join(dir, "run"), filepath.Join(dir, "dev")
	if err := os.Mkdir(r.dev, 0o755); err != nil {
		t.Fatal(err)
	}
	return r
}

// need skips the test, or fails it when DNBD_REQUIRE=1, if a program is not there.
func need(t *testing.T, programs ...string) {
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

// path is a file's in the rig's directory.
func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// command is a program on a host, with the rig's environment.
func (r *rig) command(host, name string, args ...string) *exec.Cmd {
	cmd := r.lab.Command(context.Background(), host, name, args...)
	cmd.Env = append(os.Environ(), "DNBD_RUNDIR="+r.run)
	return cmd
}

// dnbd starts dnbd on a host.
func (r *rig) dnbd(host string, args ...string) *process {
	r.t.Helper()
	return r.start(host, shared.binary, args...)
}

// sent is how many bytes a host has sent into the network since the returned function was made.
func (r *rig) sent(host string) func() int64 { return r.counter(host, r.lab.TxBytes) }

// received is how many bytes the network has sent to a host since the returned function was made.
func (r *rig) received(host string) func() int64 { return r.counter(host, r.lab.RxBytes) }

func (r *rig) counter(host string, count func(string) (int64, error)) func() int64 {
	r.t.Helper()
	read := func() int64 {
		n, err := count(host)
		if err != nil {
			r.t.Fatal(err)
		}
		return n
	}
	start := read()
	return func() int64 { return read() - start }
}

// leftovers fails the test for everything that dnbd has left behind: processes, mounts, loop devices, links, sockets. The
// sockets of processes that were killed are removed by the status command.
func (r *rig) leftovers() {
	r.t.Helper()
	if r.killed {
		if out, err := r.command("s1", shared.binary, "status").CombinedOutput(); err != nil {
			r.t.Errorf("status: %v: %s", err, out)
		}
	}
	for _, pid := range r.processes() {
		r.t.Errorf("process %s is left behind", pid)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if strings.HasPrefix(fields[4], r.dir) {
			r.t.Errorf("left mounted: %s", line)
			unix.Unmount(fields[4], unix.MNT_DETACH)
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is a good one
	for _, l := range loops {
		if file, err := os.ReadFile(l); err == nil && strings.HasPrefix(string(file), r.dir) {
			r.t.Errorf("left connected: %s to %s", l, file)
		}
	}
	if links, _ := os.ReadDir(r.dev); len(links) > 0 {
		r.t.Errorf("devices are left: %v", links)
	}
	err = filepath.WalkDir(r.run, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type()&os.ModeSocket != 0 {
			r.t.Errorf("socket %s is left", path)
		}
		return nil
	})
	if err != nil {
		r.t.Error(err)
	}
}

// processes are the rig's, by their environment.
func (r *rig) processes() (pids []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range all {
		env, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(env), "DNBD_RUNDIR="+r.run+"\x00") {
			pids = append(pids, strings.Split(file, "/")[2])
		}
	}
	return pids
}
