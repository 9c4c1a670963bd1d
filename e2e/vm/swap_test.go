//go:build linux

package vm_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// swapped is how many pages a guest has written to swap.
func swapped(t *testing.T, g *vm.Guest) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(run(t, g, "sed", "-n", "s/^pswpout //p", "/proc/vmstat")))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAMachineSwapsToAServer has a program use more memory than its machine has, while the server that the rest is on restarts.
func TestAMachineSwapsToAServer(t *testing.T) {
	need(t, "nbdkit")
	t.Parallel()
	onEachKernel(t, func(t *testing.T, k vm.Kernel) {
		vm.Need(t)
		l := lab.ForTest(t, lab.Options{VMs: 1})
		server := startForeign(t, l, 192<<20, nil, nil)
		g := rack.Boot(t, k, vm.Options{Lab: l, Host: "v1", Loadable: []string{"nbd"}, Memory: 160, CPUs: 2, Files: rack.Load()})
		if _, err := g.Run(within(t), "dnbd", "attach", "--relay", "--swap", server.uri()); err == nil ||
			!strings.Contains(err.Error(), "served by a process") {
			t.Errorf("swap through a process: %v", err)
		}
		run(t, g, "sh", "-ec", "echo 8192 >/proc/sys/vm/min_free_kbytes")
		run(t, g, "dnbd", "attach", "--driver", "nbd", "--swap", "--timeout", "10s", server.uri(), "/dev/disk")
		run(t, g, "sh", "-ec", "mkswap /dev/disk; swapon /dev/disk")
		p, err := g.Start(within(t), "/load", "-mode", "memory", "-until", "/tmp/enough", "110")
		if err != nil {
			t.Fatal(err)
		}
		before := swapped(t, g)
		await(t, "there is load", func() bool { return swapped(t, g) > before+1000 })
		server.kill()
		server.start()
		before = swapped(t, g)
		await(t, "there is load again", func() bool { return swapped(t, g) > before+1000 })
		fine(t, g, p)
		if _, err := g.Run(within(t), "dnbd", "detach", "/dev/disk"); err == nil || !strings.Contains(err.Error(), "used as swap") {
			t.Errorf("detached while it carries swap: %v", err)
		}
		run(t, g, "swapoff", "/dev/disk")
		run(t, g, "dnbd", "detach", "/dev/disk")
	})
}
