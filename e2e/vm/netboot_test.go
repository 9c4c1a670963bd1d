//go:build linux

package vm_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// offerBoot has dnbd on a host tell machines that boot what to boot, until the test ends.
func offerBoot(t *testing.T, l *lab.Lab, host string, args ...string) {
	t.Helper()
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify")})
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	cmd := l.Command(context.Background(), host, rack.Dnbd(), append([]string{"boot", "serve"}, args...)...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+ready.LocalAddr().String())
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("boot serve on %s: %v", host, err)
		}
		if t.Failed() {
			t.Logf("boot serve on %s:\n%s", host, &said)
		}
	})
	ready.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := ready.Read(make([]byte, 100)); err != nil {
		t.Fatalf("boot serve on %s: it does not tell its service manager that it is ready: %v", host, err)
	}
}

// signedLoaders is the folder with boot loaders that are signed.
func signedLoaders(t *testing.T) string {
	t.Helper()
	return prepared(t, "folder of signed boot loaders", "scripts/fetch-kernels.sh", vm.SignedLoaders)
}

func TestAMachineWithNothingBoots(t *testing.T) {
	vm.Need(t)
	debian := userland(t)
	t.Parallel()
	for _, c := range []struct {
		name         string
		uefi, secure bool
		loaders      func(*testing.T) string
		sees         []string // on its console; after that it boots as others do
	}{
		{"its BIOS has iPXE", false, false, func(*testing.T) string { return "" }, nil},
		{"it has UEFI and nothing else", true, false, func(*testing.T) string { return "/usr/lib/ipxe" }, []string{"initrd=initrd.img dnbd=:bookworm"}},
		// The kernel has the initramfs, and takes modules of it, which are signed.
		{"it has Secure Boot", true, true, signedLoaders, []string{"secureboot: Secure boot enabled", "ublk is used"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			loaders := c.loaders(t)
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), bootTime)
			defer cancel()
			initrd, err := initramfs[initramfsTools]()
			if err != nil {
				t.Fatal(err)
			}
			if c.uefi && !c.secure { // iPXE, which is slow at loading a whole one there
				initrd = filepath.Join(t.TempDir(), "initrd.img")
				if err := os.WriteFile(initrd, make([]byte, 4096), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			modules, _, err := vm.Backports.Modules()
			if err != nil {
				t.Fatal(err)
			}
			l := lab.ForTest(t, lab.Options{VMs: 1})
			image := filepath.Join(t.TempDir(), "bookworm")
			if err := os.Symlink(debian, image); err != nil {
				t.Fatal(err)
			}
			serve(t, l, "s1", image)
			var more []string
			if c.secure { // by GRUB, which takes no notice of proxy-DHCP
				more = []string{"siaddr " + l.Addr("s1").String()}
			}
			serveAddresses(t, l, "s1", l.Addr("v1"), more...)
			offerBoot(t, l, "s1", "--kernel", filepath.Join(filepath.Dir(modules), "vmlinuz"), "--initrd", initrd, "--ipxe", loaders,
				"--append", "dnbd=:bookworm:cache-size=128M console=ttyS0 panic=-1 tsc=reliable")
			g := rack.Boot(t, vm.Backports, vm.Options{Lab: l, Host: "v1", Memory: 1024, Netboot: true, UEFI: c.uefi, SecureBoot: c.secure})
			for _, text := range c.sees {
				if err := g.AwaitConsole(ctx, text); err != nil {
					t.Fatal(err)
				}
			}
			if c.sees != nil {
				return
			}
			if err := logIn(ctx, g); err != nil {
				t.Fatal(err)
			}
			if err := g.Type("systemctl poweroff\n"); err != nil {
				t.Fatal(err)
			}
			if err := g.AwaitEnd(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}
