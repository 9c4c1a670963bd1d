//go:build linux

package vm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// initramfsTool makes initramfs: its command line, with $release for the kernel's.
type initramfsTool string

const (
	initramfsTools initramfsTool = "mkinitramfs -o /initramfs $release"
	dracut         initramfsTool = "dracut --no-hostonly --no-compress --force /initramfs $release"
)

// make makes an initramfs as the users of the tool do: in the Debian of the userland, with dnbd, what make install-boot installs, the
// modules of a kernel, and a group's key put into it, which is beside the initramfs then. What is mounted for that is gone with the shell.
func (tool initramfsTool) make(kernel vm.Kernel, debian, dnbd, initramfs string) error {
	modules, release, err := kernel.Modules()
	if err != nil {
		return err
	}
	config := filepath.Join(filepath.Dir(modules), "config")
	source, err := filepath.Abs("../..")
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
		make -C "$source" install-boot DESTDIR="$PWD"
		mkdir -p etc/dnbd
		"$dnbd" key new etc/dnbd/initramfs.key
		cp -p etc/dnbd/initramfs.key "$initramfs.key"
		echo UMASK=0077 > etc/initramfs-tools/conf.d/dnbd
		chroot . `+string(tool)+`
		cp initramfs "$initramfs"`)
	cmd.Env = append(os.Environ(), "debian="+debian, "modules="+modules, "config="+config, "release="+release, "dnbd="+dnbd, "source="+source,
		"initramfs="+initramfs)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make an initramfs: %w: %s", err, out)
	}
	return nil
}

// initramfs are those that tests boot, by the tool, each made for the first test that asks.
var initramfs = map[initramfsTool]func() (string, error){
	initramfsTools: madeOnce(initramfsTools, "initramfs-tools"),
	dracut:         madeOnce(dracut, "dracut"),
}

func madeOnce(tool initramfsTool, name string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		file := filepath.Join(filepath.Dir(rack.Dnbd()), name+".initramfs")
		return file, tool.make(vm.Backports, filepath.Join(cache, "dnbd", "userland", "bookworm.erofs"), rack.Dnbd(), file)
	})
}

// onEachTool runs a test once for each tool.
func onEachTool(t *testing.T, test func(*testing.T, initramfsTool)) {
	for _, tool := range []initramfsTool{initramfsTools, dracut} {
		name, _, _ := strings.Cut(string(tool), " ")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, tool)
		})
	}
}

// serveAddresses gives addr to who asks for an address, by DHCP, until the test ends. more are lines for its configuration.
func serveAddresses(t *testing.T, l *lab.Lab, host string, addr netip.Addr, more ...string) {
	t.Helper()
	dir := t.TempDir()
	conf := fmt.Sprintf("start %v\nend %[1]v\ninterface eth0\nlease_file %s/leases\npidfile %[2]s/pid\noption subnet 255.255.0.0\n", addr, dir)
	conf += strings.Join(more, "\n")
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
func diskless(t *testing.T, l *lab.Lab, tool initramfsTool, commandLine string) *vm.Guest {
	t.Helper()
	file, err := initramfs[tool]()
	if err != nil {
		t.Fatal(err)
	}
	return rack.Boot(t, vm.Backports, vm.Options{Lab: l, Host: "v1", Initramfs: file, Memory: 768, Append: commandLine})
}

// loseRoot has who is logged in on the console kill the process that has the root, again and again, and each time read much of the
// root, past the cache, and write to it. Everything that this starts is on the root.
func loseRoot(ctx context.Context, t *testing.T, g *vm.Guest) {
	t.Helper()
	err := g.Type(`sum() { cat /usr/bin/[b-d]* | cksum; }; was=$(sum); ` +
		`guard=$(grep -lae --super[v]ise /proc/[0-9]*/cmdline | cut -d / -f 3); for i in 1 2 3; do ` +
		`kill -9 $(cat /proc/$guard/task/*/children); echo 3 > /proc/sys/vm/drop_caches; ` +
		`echo $i > /etc/lost; sync; [ "$(sum)" = "$was" ] && echo has-survived-$(cat /etc/lost); done` + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.AwaitConsole(ctx, "has-survived-3"); err != nil {
		t.Fatal(err)
	}
	said := g.Console()
	if got := strings.Count(said, "starting the next one"); got != 3 || strings.Count(said, "has-survived-") != 3+1 {
		t.Errorf("the process of the root was started again %d times, want 3", got)
	}
	if strings.Contains(said, "I/O error") {
		t.Error("the kernel reports an I/O error")
	}
}

func TestTheKernelsCommandLineNamesTheRoot(t *testing.T) {
	vm.Need(t)
	debian := userland(t)
	t.Parallel()
	onEachTool(t, func(t *testing.T, tool initramfsTool) {
		ctx, cancel := context.WithTimeout(t.Context(), bootTime)
		defer cancel()
		l := lab.ForTest(t, lab.Options{VMs: 1})
		image := filepath.Join(t.TempDir(), "bookworm")
		if err := os.Symlink(debian, image); err != nil {
			t.Fatal(err)
		}
		file, err := initramfs[tool]()
		if err != nil {
			t.Fatal(err)
		}
		serve(t, l, "s1", "--group-key", file+".key", image)
		address, driver := "", "fuse"
		if tool == dracut {
			driver = "ublk"
			address = fmt.Sprintf(" ip=%v:::255.255.0.0:::none", l.Addr("v1"))
		} else {
			serveAddresses(t, l, "s1", l.Addr("v1"))
		}
		g := diskless(t, l, tool, "dnbd=239.0.0.1:bookworm:driver="+driver+",cache-size=128M,group-key=/etc/dnbd/initramfs.key"+address)
		if err := logIn(ctx, g); err != nil {
			t.Fatal(err)
		}
		if driver != "fuse" { // what that has made ends with its process
			loseRoot(ctx, t, g)
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
	})
}

func TestAnOverlayInMemoryIsARootOfItsOwn(t *testing.T) {
	vm.Need(t)
	disk := writableUserland(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	l := lab.ForTest(t, lab.Options{VMs: 1})
	serve(t, l, "s1", "--nbd", ":10809", disk)
	serveAddresses(t, l, "s1", l.Addr("v1"))
	g := diskless(t, l, initramfsTools, fmt.Sprintf("dnbd=:disk:cow=mem,unicast=%v rw", l.Addr("s1")))
	if err := logIn(ctx, g); err != nil {
		t.Fatal(err)
	}
	loseRoot(ctx, t, g)
	err := g.Type("echo is-$(stat -f -c %T /) > /etc/note; sync; cat /etc/note; ls -d /dev/shm/dnbd-0/*-0; readlink /dev/dnbd-root; grep ext4 /proc/mounts; systemctl poweroff\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.AwaitEnd(ctx); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"is-ext2/ext3", "\n/dev/shm/dnbd-0/", "\n/dev/ublkb0\n", "/dev/dnbd-root / ext4 rw"} {
		if !strings.Contains(g.Console(), text) {
			t.Errorf("the console does not say %q", text)
		}
	}
}

func TestABootThatFailsSaysWhy(t *testing.T) {
	vm.Need(t)
	userland(t)
	t.Parallel()
	onEachTool(t, func(t *testing.T, tool initramfsTool) {
		ctx, cancel := context.WithTimeout(t.Context(), bootTime)
		defer cancel()
		l := lab.ForTest(t, lab.Options{VMs: 1})
		other := filepath.Join(t.TempDir(), "other")
		if err := os.WriteFile(other, make([]byte, 4096), 0o644); err != nil {
			t.Fatal(err)
		}
		serve(t, l, "s1", other)
		serveAddresses(t, l, "s1", l.Addr("v1"))
		g := diskless(t, l, tool, "dnbd=:missing panic=1")
		if err := g.AwaitEnd(ctx); err != nil { // it reboots, as panic= asks for
			t.Error(err)
		}
		for _, text := range []string{"no server offers image missing", "dnbd: no root: missing cannot be attached", "reboot in 1 s", "dnbd: rebooting"} {
			if !strings.Contains(g.Console(), text) {
				t.Errorf("the console does not say %q", text)
			}
		}
	})
}

// answer types until the console says what follows: what is typed while a console is being set up gets lost.
func answer(ctx context.Context, t *testing.T, g *vm.Guest, text, then string) {
	t.Helper()
	for {
		if err := g.Type(text); err != nil {
			t.Fatal(err)
		}
		patience, cancel := context.WithTimeout(ctx, 20*time.Second)
		err := g.AwaitConsole(patience, then)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
}

func TestABootWithoutAnAddressOffersAShell(t *testing.T) {
	vm.Need(t)
	userland(t)
	t.Parallel()
	onEachTool(t, func(t *testing.T, tool initramfsTool) {
		ctx, cancel := context.WithTimeout(t.Context(), bootTime)
		defer cancel()
		g := diskless(t, lab.ForTest(t, lab.Options{VMs: 1}), tool, "dnbd=:debian dnbd.wait=5 panic=")
		for _, text := range []string{"dnbd: no root: there is no network", "s: shell; nothing: reboot in 60 s"} {
			if err := g.AwaitConsole(ctx, text); err != nil {
				t.Fatal(err)
			}
		}
		answer(ctx, t, g, "s\n", "(dnbd) ")
		answer(ctx, t, g, "echo its-$((6*7)); exit\n", "its-42")
		// It has tried again.
		await(t, "there is another choice", func() bool { return strings.Count(g.Console(), "s: shell; nothing") == 2 })
		if err := g.Type("r\n"); err != nil {
			t.Fatal(err)
		}
		if err := g.AwaitEnd(ctx); err != nil {
			t.Error(err)
		}
	})
}
