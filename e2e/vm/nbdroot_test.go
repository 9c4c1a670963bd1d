//go:build linux

package vm_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// writableUserland makes a disk of the userland that can be written to.
func writableUserland(t *testing.T) string {
	t.Helper()
	need(t, "mkfs.ext4", "unshare")
	disk := filepath.Join(t.TempDir(), "disk")
	cmd := exec.Command("unshare", "--mount", "sh", "-euc", `mount -o loop,ro -t erofs "$debian" /mnt; mkfs.ext4 -q -d /mnt "$disk" 600M`)
	cmd.Env = append(os.Environ(), "debian="+userland(t), "disk="+disk)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make a disk: %v: %s", err, out)
	}
	return disk
}

func TestAMachineHasItsRootOnAnNBDServerAsWithNbdClient(t *testing.T) {
	vm.Need(t)
	need(t, "nbdkit")
	disk := writableUserland(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	l := lab.ForTest(t, lab.Options{VMs: 1})
	server := startForeignFile(t, l, "s1", disk, nil, nil)
	serveAddresses(t, l, "s1", l.Addr("v1"))
	g := diskless(t, l, initramfsTools, fmt.Sprintf("root=/dev/nbd0 nbdroot=%v,disk rw", l.Addr("s1")))
	if err := logIn(ctx, g); err != nil {
		t.Fatal(err)
	}
	loseRoot(ctx, t, g)
	// The process has to find its way there when the server has restarted.
	server.kill()
	server.start()
	if err := g.Type("echo kept > /root/note; echo 3 > /proc/sys/vm/drop_caches; systemctl poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := g.AwaitEnd(ctx); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("e2fsck", "-fn", disk).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v: %s", err, out)
	}
	if out, err := exec.Command("dumpe2fs", "-h", disk).Output(); err != nil || strings.Contains(string(out), "needs_recovery") {
		t.Errorf("the root was not unmounted before the machine was off: %v: %s", err, out)
	}
	out, err := exec.Command("debugfs", "-R", "cat /root/note", disk).Output()
	if err != nil || string(out) != "kept\n" {
		t.Errorf("the machine wrote a note, and the disk has %q, %v", out, err)
	}
}
