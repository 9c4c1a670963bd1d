//go:build linux

package vm_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// foreign is an NBD server of another project, nbdkit, on a host of a network, with a file that clients may write to.
type foreign struct {
	t      testing.TB
	l      *lab.Lab
	host   string
	addr   string
	args   []string
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has
	killed bool
}

// blank makes an empty file of size bytes, for a disk.
func blank(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// startForeign starts a server on s1 with a file of size bytes. It ends with the test.
func startForeign(t testing.TB, l *lab.Lab, size int64, filters, parameters []string) *foreign {
	t.Helper()
	return startForeignOn(t, l, "s1", size, filters, parameters)
}

// startForeignOn is startForeign on any host.
func startForeignOn(t testing.TB, l *lab.Lab, host string, size int64, filters, parameters []string) *foreign {
	t.Helper()
	return startForeignFile(t, l, host, blank(t, size), filters, parameters)
}

// startForeignFile is startForeignOn with a file that is there.
func startForeignFile(t testing.TB, l *lab.Lab, host, file string, filters, parameters []string) *foreign {
	t.Helper()
	f := &foreign{t: t, l: l, host: host, addr: l.Addr(host).String()}
	f.args = append([]string{"-f", "-i", f.addr}, filters...)
	f.args = append(append(f.args, "file", file), parameters...)
	f.start()
	t.Cleanup(func() {
		if !f.killed {
			f.kill()
		}
	})
	return f
}

// uri is that of the server's export.
func (f *foreign) uri() string { return "nbd://" + f.addr }

// start starts the server, and waits until it accepts connections.
func (f *foreign) start() {
	f.t.Helper()
	// SIGTERM is blocked, since on busy machines one has come out of nowhere, and a server that refuses requests because it
	// shuts down is not what most of these tests are about. SIGINT ends it in the same way.
	f.cmd = f.l.Command(context.Background(), f.host, "env", append([]string{"--block-signal=TERM", "nbdkit"}, f.args...)...)
	f.cmd.Stderr = os.Stderr
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.ended, f.killed = make(chan struct{}), false
	go func(cmd *exec.Cmd, ended chan struct{}) { // ends with the server
		cmd.Wait()
		close(ended)
	}(f.cmd, f.ended)
	await(f.t, "nbdkit accepts connections", func() bool {
		select {
		case <-f.ended:
			f.t.Fatalf("nbdkit has ended: %v", f.cmd.ProcessState)
		default:
		}
		return f.l.Do(f.host, func() error {
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
	select {
	case <-f.ended:
		f.t.Errorf("nbdkit has ended by itself: %v", f.cmd.ProcessState)
	default:
		f.cmd.Process.Kill() // if it fails, nbdkit is just ending
	}
	<-f.ended
	f.killed = true
}

// signal sends the server a signal.
func (f *foreign) signal(s syscall.Signal) {
	f.t.Helper()
	if err := f.cmd.Process.Signal(s); err != nil {
		f.t.Fatal(err)
	}
}

// fine ends a load, if it lasts until then, and fails the test if a load has found something wrong, or the kernel has reported an error.
func fine(t *testing.T, g *vm.Guest, p *vm.Process) {
	t.Helper()
	run(t, g, "touch", "/tmp/enough")
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
		server := startForeign(t, l, 16<<20, nil, nil)
		g := rack.Boot(t, k, vm.Options{Lab: l, Host: "v1", Loadable: []string{"nbd"}, CPUs: 2, Files: rack.Load()})
		run(t, g, "dnbd", "attach", "--driver", "nbd", "--timeout", "10s", "--connections", "2", server.uri(), "/dev/disk")
		t.Log(run(t, g, "dnbd", "status"))
		// What tells whether the kernel has done with a connection: one worker for each that reads, and one in reserve.
		bothRead := func() bool {
			return strings.TrimSpace(run(t, g, "sh", "-c", `cat /proc/[0-9]*/stat | grep -c '+nbd0-recv) . 2 ' || true`)) == "2"
		}
		await(t, "there is a reader for each connection", bothRead)
		run(t, g, "sh", "-c", `cat /proc/[0-9]*/stat | grep -e '(nbd0-recv) . 2 ' -e '(kworker/R-nbd0-[^ ]*) . 2 '`)
		p, err := g.Start(within(t), "/load", "-until", "/tmp/enough", "/dev/disk")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // what was under way goes on after the time limit
			before := attachment(t, g).Attachment.Kernel
			await(t, "there is load", func() bool { return attachment(t, g).Attachment.Kernel.Requests > before.Requests+50 })
			server.kill()
			await(t, "the loss is noticed", func() bool { return attachment(t, g).Attachment.Kernel.Lost > before.Lost })
			server.start()
			await(t, "there is a reader for each connection again", bothRead)
		}
		fine(t, g, p)
		t.Log(run(t, g, "dnbd", "status"))
		run(t, g, "dnbd", "detach", "/dev/disk")
	})
}

func TestARelayedExportBearsAServerThatShutsDown(t *testing.T) {
	need(t, "nbdkit")
	t.Parallel()
	onEachKernel(t, func(t *testing.T, k vm.Kernel) {
		vm.Need(t)
		l := lab.ForTest(t, lab.Options{VMs: 1})
		server := startForeign(t, l, 16<<20, nil, nil)
		g := rack.Boot(t, k, vm.Options{Lab: l, Host: "v1", Loadable: []string{"nbd"}, CPUs: 2, Files: rack.Load()})
		run(t, g, "dnbd", "attach", "--driver", "nbd", "--relay", server.uri(), "/dev/disk")
		// Without flushes: one would fail, since the process knows that writes that were not flushed may be lost.
		p, err := g.Start(within(t), "/load", "-until", "/tmp/enough", "-flush=false", "/dev/disk")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			before := attachment(t, g).Attachment.Kernel.Requests
			await(t, "there is load", func() bool { return attachment(t, g).Attachment.Kernel.Requests > before+50 })
			server.signal(syscall.SIGINT) // nbdkit refuses every request then, until the last client has gone
			<-server.ended
			server.start()
		}
		fine(t, g, p)
		if lost := attachment(t, g).Attachment.Kernel.Lost; lost != 0 {
			t.Errorf("%d of the kernel's own connections were lost", lost)
		}
		run(t, g, "dnbd", "detach", "/dev/disk")
	})
}

func TestAWritableDeviceOutlivesItsProcess(t *testing.T) {
	need(t, "nbdkit")
	t.Parallel()
	for _, c := range []struct {
		name, limit         string
		filters, parameters []string
	}{
		{"served by the kernel", "10s", nil, nil},
		// With so short a time limit all goes through the process; and with blocks that are larger than a page.
		{"through the process", "1s", []string{"--filter=blocksize-policy"}, []string{"blocksize-minimum=8192", "blocksize-preferred=8192", "blocksize-error-policy=error"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			onEachKernel(t, func(t *testing.T, k vm.Kernel) {
				vm.Need(t)
				l := lab.ForTest(t, lab.Options{VMs: 1})
				server := startForeign(t, l, 16<<20, c.filters, c.parameters)
				g := rack.Boot(t, k, vm.Options{Lab: l, Host: "v1", Loadable: []string{"nbd"}, CPUs: 2, Files: rack.Load()})
				attach := []string{"attach", "--driver", "nbd", "--timeout", c.limit, server.uri(), "/dev/disk"}
				run(t, g, "dnbd", attach...)
				if _, err := g.Run(within(t), "dnbd", "set", "/dev/disk", "--timeout", "2s"); (err == nil) != (c.filters != nil) {
					t.Errorf("set a time limit that is short for a server: %v", err)
				}
				p, err := g.Start(within(t), "/load", "-until", "/tmp/enough", "/dev/disk")
				if err != nil {
					t.Fatal(err)
				}
				for range killRounds {
					before := attachment(t, g)
					await(t, "there is load", func() bool {
						return attachment(t, g).Attachment.Kernel.Requests > before.Attachment.Kernel.Requests+50
					})
					if err := g.Signal(within(t), attachment(t, g).PID, syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
					if _, err := g.Run(within(t), "dnbd", "attach", "--resume", "--driver", "nbd", "nbd://10.77.1.1/other", "/dev/disk"); err == nil {
						t.Error("another export was taken for the one that is attached")
					}
					run(t, g, "dnbd", append([]string{"attach", "--resume"}, attach[1:]...)...)
				}
				fine(t, g, p)
				t.Log(run(t, g, "dnbd", "status"))
				run(t, g, "dnbd", "detach", "/dev/disk")
			})
		})
	}
}

func TestAHungDeviceIsReleasedByForce(t *testing.T) {
	need(t, "nbdkit")
	t.Parallel()
	onEachKernel(t, func(t *testing.T, k vm.Kernel) {
		vm.Need(t)
		l := lab.ForTest(t, lab.Options{VMs: 1})
		server := startForeign(t, l, 64<<20, nil, nil)
		g := rack.Boot(t, k, vm.Options{Lab: l, Host: "v1", Loadable: []string{"nbd", "tcp_diag"}})
		for what, hang := range map[string]func(){
			"server": func() { server.signal(syscall.SIGSTOP) },
			// The kernel's connections are nobody's but its own then.
			"server, and the process is dead": func() {
				server.signal(syscall.SIGSTOP)
				if err := g.Signal(within(t), attachment(t, g).PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			},
			"process": func() {
				server.signal(syscall.SIGSTOP)
				if err := g.Signal(within(t), attachment(t, g).PID, syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			},
		} {
			run(t, g, "dnbd", "attach", "--driver", "nbd", server.uri(), "/dev/disk")
			hang()
			// One that writes more than the buffers between here and the server hold, so that the kernel is stuck sending.
			p, err := g.Start(within(t), "sh", "-c", "dd if=/dev/zero of=/dev/disk bs=1M count=60 oflag=direct; dd if=/dev/disk of=/dev/null iflag=direct count=1")
			if err != nil {
				t.Fatal(err)
			}
			await(t, "requests wait", func() bool {
				return strings.TrimSpace(run(t, g, "awk", "{print $9}", "/sys/block/nbd0/stat")) != "0"
			})
			begun := time.Now()
			run(t, g, "dnbd", "detach", "--force", "/dev/disk")
			if took := time.Since(begun); took > 15*time.Second { // of an emulated machine; what is measured is in the benchmarks
				t.Errorf("%s hung: released after %v", what, took)
			}
			if _, err := p.Wait(within(t)); err == nil {
				t.Errorf("%s hung: who used the device saw no error", what)
			}
			if stuck := run(t, g, "sh", "-c", "grep -l '^State:.D' /proc/[0-9]*/status || true"); stuck != "" {
				t.Errorf("%s hung: in state D are %s", what, stuck)
			}
			t.Logf("%s hung: released after %v", what, time.Since(begun))
			server.signal(syscall.SIGCONT)
		}
	})
}

func TestADeviceOfAnotherProgramIsLeftAlone(t *testing.T) {
	need(t, "nbdkit", "nbd-client")
	t.Parallel()
	onEachKernel(t, func(t *testing.T, k vm.Kernel) {
		vm.Need(t)
		l := lab.ForTest(t, lab.Options{VMs: 1})
		server := startForeign(t, l, 16<<20, nil, nil)
		g := rack.Boot(t, k, vm.Options{Lab: l, Host: "v1", Modules: []string{"nbd"}, Programs: []string{"nbd-client"}})
		run(t, g, "nbd-client", server.addr, "/dev/nbd0")
		if _, err := g.Run(within(t), "dnbd", "attach", "--driver", "nbd", server.uri(), "/dev/nbd0"); err == nil ||
			!strings.Contains(err.Error(), "in use by another program") {
			t.Errorf("attached where nbd-client is: %v", err)
		}
		run(t, g, "dnbd", "attach", "--driver", "nbd", server.uri(), "/dev/disk")
		if kernel := attachment(t, g).Attachment.Kernel.Device; kernel != "/dev/nbd1" {
			t.Errorf("attached as %s", kernel)
		}
		run(t, g, "dnbd", "detach", "/dev/disk")
		if _, err := g.Run(within(t), "dnbd", "detach", "--force", "/dev/nbd0"); err == nil {
			t.Error("the device of nbd-client was released")
		}
		run(t, g, "nbd-client", "-c", "/dev/nbd0")
	})
}
