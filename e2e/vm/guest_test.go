//go:build linux

package vm_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/vm"
)

// patience bounds every wait for something that takes moments. It is generous, as guests are emulated and the machine may be busy.
const patience = 90 * time.Second

// within is a context for something that takes moments.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// run runs a program in a guest, which is to succeed, and returns what it wrote to stdout.
func run(t *testing.T, g *vm.Guest, name string, args ...string) string {
	t.Helper()
	out, err := g.Run(within(t), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// onEachKernel runs a test once for each kernel.
func onEachKernel(t *testing.T, test func(*testing.T, vm.Kernel)) {
	for _, k := range vm.Kernels() {
		t.Run(string(k), func(t *testing.T) { test(t, k) })
	}
}

func TestAGuestBootsAndDoesWhatItIsTold(t *testing.T) {
	t.Parallel()
	onEachKernel(t, func(t *testing.T, k vm.Kernel) {
		ctx := within(t)
		g := rack.Boot(t, k, vm.Options{
			Modules: []string{"nbd", "fuse", "loop", "overlay", "erofs", "squashfs", "ext4"}, Loadable: []string{"dm_mod"},
			Programs: []string{"nbd-client"},
		})
		if got := run(t, g, "dnbd", "version"); !strings.HasPrefix(got, "dnbd ") {
			t.Errorf("dnbd version says %q", got)
		}
		for _, file := range []string{"/sys/block/nbd0", "/dev/fuse", "/dev/loop-control"} {
			run(t, g, "test", "-e", file)
		}
		if known := strings.Fields(run(t, g, "cat", "/proc/filesystems")); !containsAll(known, "overlay", "erofs", "squashfs", "ext4") {
			t.Errorf("the guest knows the file systems %v", known)
		}
		run(t, g, "modprobe", "dm_mod")
		run(t, g, "nbd-client", "-V")

		_, err := g.Run(ctx, "sh", "-c", "echo out; echo err >&2; exit 3")
		var failed *vm.ExitError
		if !errors.As(err, &failed) || failed.Code != 3 || failed.Stdout != "out\n" || failed.Stderr != "err\n" {
			t.Errorf("a program that fails: %v", err)
		}
		if got, err := g.RunInput(ctx, []byte("words"), "cat"); err != nil || got != "words" {
			t.Errorf("cat says %q and %v", got, err)
		}
		if err := g.WriteFile(ctx, "/tmp/file", []byte{0, 1, 2}, 0o600); err != nil {
			t.Error(err)
		}
		if got, err := g.ReadFile(ctx, "/tmp/file"); err != nil || !slices.Equal(got, []byte{0, 1, 2}) {
			t.Errorf("the file that was written holds %v, %v", got, err)
		}
		p, err := g.Start(ctx, "sh", "-c", "echo ready; exec cat /dev/zero > /dev/null")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Await(ctx, "ready"); err != nil {
			t.Error(err)
		}
		if err := p.Signal(ctx, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		if _, err := p.Wait(ctx); !errors.As(err, &failed) || failed.Code != -1 || failed.How != "signal: killed" {
			t.Errorf("a program that was killed: %v", err)
		}
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if _, err := g.Run(short, "sleep", "1000"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a program that takes too long: %v", err)
		}
		run(t, g, "sh", "-c", "while pidof sleep; do :; done") // it was killed
		if err := g.PowerOff(ctx); err != nil {
			t.Error(err)
		}
	})
}

func containsAll(all []string, these ...string) bool {
	return !slices.ContainsFunc(these, func(s string) bool { return !slices.Contains(all, s) })
}

func TestUblkIsThereInTheNewerKernel(t *testing.T) {
	t.Parallel()
	g := rack.Boot(t, vm.Backports, vm.Options{Modules: []string{"ublk_drv"}})
	run(t, g, "test", "-c", "/dev/ublk-control")
}

func TestAPanicIsNoticed(t *testing.T) {
	t.Parallel()
	vm.Need(t)
	ctx := within(t)
	g, err := rack.Start(ctx, vm.Stable, vm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Run(ctx, "sh", "-c", "echo c > /proc/sysrq-trigger"); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("what ran when the kernel panicked returned %v", err)
	}
	if err := g.Kill(); err == nil || !strings.Contains(err.Error(), "ended unasked") || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("at the end of a guest whose kernel panicked: %v", err)
	}
}
