//go:build linux

package vm_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// makeInitramfs makes an initramfs as the users of initramfs-tools do: in the Debian of the userland, with dnbd, the files in boot/
// and the modules of a kernel put into it. What is mounted for that is gone with the shell.
func makeInitramfs(kernel vm.Kernel, debian, dnbd, initramfs string) error {
	modules, release, err := kernel.Modules()
	if err != nil {
		return err
	}
	config := filepath.Join(filepath.Dir(modules), "config")
	boot, err := filepath.Abs("../../boot/initramfs-tools")
	if err != nil {
		return err
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-euc", `
		mount -t tmpfs tmpfs /mnt
		mkdir /mnt/debian /mnt/upper /mnt/work /mnt/root
		mount -o loop,ro -t erofs "$debian" /mnt/debian
		mount -t overlay -o lowerdir=/mnt/debian,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
		cd /mnt/root
		mount -t proc proc proc
		mkdir -p lib/modules/$release
		mount --bind "$modules" lib/modules/$release
		cp "$config" boot/config-$release
		cp "$dnbd" usr/local/bin/dnbd
		cp -r "$boot/." etc/initramfs-tools
		chroot . mkinitramfs -o /initramfs $release
		cp initramfs "$initramfs"`)
	cmd.Env = append(os.Environ(), "debian="+debian, "modules="+modules, "config="+config, "release="+release, "dnbd="+dnbd, "boot="+boot,
		"initramfs="+initramfs)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make an initramfs: %w: %s", err, out)
	}
	return nil
}

// bootInitramfs returns an initramfs of makeInitramfs, which is made for the first test that asks.
var bootInitramfs = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	file := filepath.Join(filepath.Dir(rack.Dnbd()), "boot.initramfs")
	return file, makeInitramfs(vm.Backports, filepath.Join(cache, "dnbd", "userland", "bookworm.erofs"), rack.Dnbd(), file)
})

// serveAddresses gives addr to who asks for an address, by DHCP, until the test ends.
func serveAddresses(t *testing.T, l *lab.Lab, host string, addr netip.Addr) {
	t.Helper()
	dir := t.TempDir()
	conf := fmt.Sprintf("start %v\nend %[1]v\ninterface eth0\nlease_file %s/leases\npidfile %[2]s/pid\noption subnet 255.255.0.0\n", addr, dir)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "leases"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := l.Command(context.Background(), host, "busybox", "udhcpd", "-f", filepath.Join(dir, "conf"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("udhcpd on %s:\n%s", host, &said)
		}
	})
}

// diskless boots a machine that has nothing but a kernel with a command line, and an initramfs.
func diskless(t *testing.T, l *lab.Lab, commandLine string) *vm.Guest {
	t.Helper()
	initramfs, err := bootInitramfs()
	if err != nil {
		t.Fatal(err)
	}
	return rack.Boot(t, vm.Backports, vm.Options{Lab: l, Host: "v1", Initramfs: initramfs, Memory: 768, Append: commandLine})
}

func TestTheKernelsCommandLineNamesTheRoot(t *testing.T) {
	vm.Need(t)
	debian := userland(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	l := lab.ForTest(t, lab.Options{VMs: 1})
	image := filepath.Join(t.TempDir(), "bookworm")
	if err := os.Symlink(debian, image); err != nil {
		t.Fatal(err)
	}
	serve(t, l, "s1", image)
	serveAddresses(t, l, "s1", l.Addr("v1"))
	g := diskless(t, l, "dnbd=239.0.0.1:bookworm:driver=fuse,cache-size=128M")
	if err := logIn(ctx, g); err != nil {
		t.Fatal(err)
	}
	// The console shows what is typed, too, so that is not to contain what is looked for.
	if err := g.Type("echo is-$(stat -f -c %T /) > /etc/note; cat /etc/note; systemctl poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := g.AwaitEnd(ctx); err != nil {
		t.Error(err)
	}
	if !strings.Contains(g.Console(), "is-overlayfs") {
		t.Error("the root is not a writable overlay")
	}
}

func TestABootThatFailsSaysWhy(t *testing.T) {
	vm.Need(t)
	userland(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	l := lab.ForTest(t, lab.Options{VMs: 1})
	g := diskless(t, l, fmt.Sprintf("dnbd=:missing:io-timeout=1s ip=%v:::255.255.0.0", l.Addr("v1")))
	if err := g.AwaitEnd(ctx); err != nil { // it reboots, as panic= asks for
		t.Error(err)
	}
	for _, text := range []string{"no server offered image missing", "dnbd: no root: missing cannot be attached", "Rebooting"} {
		if !strings.Contains(g.Console(), text) {
			t.Errorf("the console does not say %q", text)
		}
	}
}
