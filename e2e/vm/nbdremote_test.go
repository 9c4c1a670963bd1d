//go:build linux

package vm_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// foreign is an NBD server of another project, nbdkit, on a host of a network, with a file that clients may write to.
type foreign struct {
	t    *testing.T
	l    *lab.Lab
	addr string
	args []string
	cmd  *exec.Cmd
}

// startForeign starts a server on s1 with a file of size bytes. It ends with the test.
func startForeign(t *testing.T, l *lab.Lab, size int64, filters ...string) *foreign {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	f := &foreign{t: t, l: l, addr: l.Addr("s1").String()}
	f.args = append([]string{"-f", "-i", f.addr}, filters...)
	f.args = append(f.args, "file", file)
	f.start()
	t.Cleanup(f.kill)
	return f
}

// uri is that of the server's export.
func (f *foreign) uri() string { return "nbd://" + f.addr }

// start starts the server, and waits until it accepts connections.
func (f *foreign) start() {
	f.t.Helper()
	f.cmd = f.l.Command(context.Background(), "s1", "nbdkit", f.args...)
	f.cmd.Stderr = os.Stderr
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	await(f.t, "nbdkit accepts connections", func() bool {
		return f.l.Do("s1", func() error {
			conn, err := net.Dial("tcp", f.addr+":10809")
			if err == nil {
				conn.Close()
			}
			return err
		}) == nil
	})
}

// kill ends the server as a crash does.
func (f *foreign) kill() {
	f.cmd.Process.Kill() // it fails when it has ended
	f.cmd.Wait()
}

// signal sends the server a signal.
func (f *foreign) signal(s syscall.Signal) {
	f.t.Helper()
	if err := f.cmd.Process.Signal(s); err != nil {
		f.t.Fatal(err)
	}
}

// loadProgram builds the program that puts a load on devices, and returns what has a guest have it as /load.
func loadProgram(t *testing.T) map[string]string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "load")
	build := exec.Command("go", "build", "-o", path, "github.com/dnbd/dnbd/e2e/vm/load")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build load: %v: %s", err, out)
	}
	return map[string]string{"/load": path}
}

// fine fails the test if a load has found something wrong, or the kernel has reported an error.
func fine(t *testing.T, g *vm.Guest, p *vm.Process) {
	t.Helper()
	out, err := p.Wait(within(t))
	if err != nil {
		t.Error(err)
	}
	t.Log(out)
	if bad := run(t, g, "sh", "-c", "dmesg | grep -i 'I/O error' || true"); bad != "" {
		t.Errorf("the kernel reports %s", bad)
	}
}

func TestAWritableExportKeepsItsDataWhenTheServerRestartsUnderLoad(t *testing.T) {
	need(t, "nbdkit")
	t.Parallel()
	onEachKernel(t, func(t *testing.T, k vm.Kernel) {
		vm.Need(t)
		l := lab.ForTest(t, lab.Options{VMs: 1})
		server := startForeign(t, l, 16<<20)
		g := rack.Boot(t, k, vm.Options{Lab: l, Host: "v1", Loadable: []string{"nbd"}, CPUs: 2, Files: loadProgram(t)})
		run(t, g, "dnbd", "attach", "--driver", "nbd", "--timeout", "1s", "--connections", "2", server.uri(), "/dev/disk")
		t.Log(run(t, g, "dnbd", "status"))
		p, err := g.Start(within(t), "/load", "-time", "20s", "/dev/disk")
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			before := attachment(t, g).Attachment.Kernel
			await(t, "there is load", func() bool { return attachment(t, g).Attachment.Kernel.Requests > before.Requests+50 })
			server.kill()
			await(t, "the loss is noticed", func() bool { return attachment(t, g).Attachment.Kernel.Lost > before.Lost })
			server.start()
		}
		fine(t, g, p)
		t.Log(run(t, g, "dnbd", "status"))
		run(t, g, "dnbd", "detach", "/dev/disk")
	})
}
