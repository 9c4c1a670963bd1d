//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/e2e/lab"
)

// privileges are lines of a process's /proc/PID/status, the same in all of its threads.
func privileges(t *testing.T, pid int) map[string]string {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("process %d has no threads: %v", pid, err)
	}
	all := map[string]string{}
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for line := range strings.Lines(string(status)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			switch key {
			case "Uid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs":
				value = strings.TrimSpace(value)
				if before, ok := all[key]; ok && before != value {
					t.Errorf("%s is %s in one thread, and %s in another", key, before, value)
				}
				all[key] = value
			}
		}
	}
	return all
}

// mask is capabilities as /proc writes them.
func mask(capabilities ...int) string {
	var m uint64
	for _, c := range capabilities {
		m |= 1 << c
	}
	return fmt.Sprintf("%016x", m)
}

func TestAServerNeedsNoPrivileges(t *testing.T) {
	t.Parallel()
	need(t, "setpriv")
	r := newRig(t, lab.Options{Clients: 1})
	image := film(t, 4*mib)
	const nobody = 65534
	if err := os.Chmod(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{r.path("images"), r.path("run-nobody")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	// It reads the image, and writes the sidecar beside it.
	content, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	file := r.path("images/film.img")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	binary := r.path("dnbd") // where nobody may run it
	program, err := os.ReadFile(shared.binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, program, 0o755); err != nil {
		t.Fatal(err)
	}
	server := r.start("s1", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
		"--no-new-privs", "env", "DNBD_RUNDIR="+r.path("run-nobody"), binary, "serve", "--nbd", ":10809", "film="+file)
	server.daemon = true
	server.await(server.out, "control ")
	if p := privileges(t, server.cmd.Process.Pid); p["CapPrm"] != mask() || p["CapEff"] != mask() || p["CapBnd"] != mask() || !strings.HasPrefix(p["Uid"], "65534") {
		t.Errorf("the server has %v", p)
	}
	nbdURI := "nbd://" + r.lab.Addr("s1").String() + "/film"
	for from, to := range map[string]string{"film": "group.img", nbdURI: "nbd.img"} {
		r.dnbd("c1", "copy", from, r.path(to)).succeed()
		if err := compare(r.path(to), image); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(file + ".dnbd"); err != nil {
		t.Errorf("there is no sidecar: %v", err)
	}
}

func TestAClientDropsWhatItDoesNotNeed(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 2})
	image := film(t, 4*mib)
	r.serve("s1", image)

	device := r.attach("c1", "film4096")
	kept := mask(unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_DAC_OVERRIDE, unix.CAP_NET_ADMIN, unix.CAP_IPC_LOCK)
	if p := privileges(t, device.cmd.Process.Pid); p["CapEff"] != kept || p["CapPrm"] != kept || p["CapBnd"] != kept || p["NoNewPrivs"] != "1" {
		t.Errorf("the process of a device has %v, want %s", p, kept)
	}
	// What comes later still works: another user's cache, a restarted server, detaching.
	cacheFile := r.path("cache")
	if err := os.WriteFile(cacheFile, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(cacheFile, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	r.dnbd("c1", "cache", "add", device.device, cacheFile).succeed()
	if err := compare(device.device, image); err != nil {
		t.Error(err)
	}
	r.dnbd("c1", "detach", device.device).succeed()

	a, socket := r.attachSocket("c2", "film4096")
	kept = mask(unix.CAP_DAC_OVERRIDE, unix.CAP_NET_ADMIN, unix.CAP_IPC_LOCK)
	if p := privileges(t, a.cmd.Process.Pid); p["CapEff"] != kept || p["CapBnd"] != kept || p["NoNewPrivs"] != "1" {
		t.Errorf("the process of a socket has %v, want %s", p, kept)
	}
	r.dnbd("c2", "detach", socket).succeed()
}
