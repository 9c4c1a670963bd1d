//go:build linux

package vm_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// writer writes files over and over, and keeps copies of them in memory. Now and then it waits until one is on the disk; what else
// is there the kernel writes when it likes, which is soon, and does not flush.
const writer = `
	echo 10 > /proc/sys/vm/dirty_writeback_centisecs
	echo 10 > /proc/sys/vm/dirty_expire_centisecs
	mkdir -p /tmp/copy
	i=0
	while [ ! -e /tmp/enough ]; do
		f=f$((i % 37))
		dd if=/dev/urandom of=/tmp/copy/$f bs=32k count=4 2>/dev/null
		cp /tmp/copy/$f /mnt/$f
		[ $((i % 50)) != 0 ] || dd if=/tmp/copy/$f of=/mnt/$f conv=fsync 2>/dev/null
		i=$((i + 1))
	done
	umount /mnt`

func TestAFileSystemBearsAServerThatForgetsWhatWasNotFlushed(t *testing.T) {
	need(t, "nbdkit", "mkfs.ext4", "e2fsck")
	t.Parallel()
	vm.Need(t)
	l := lab.ForTest(t, lab.Options{VMs: 1})
	certs := certificates(t, l.Addr("s1").String())
	disk := blank(t, 64<<20)
	if out, err := exec.Command("mkfs.ext4", "-q", "-e", "remount-ro", disk).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	// The filter has what was written in a file that nobody finds after a crash, until it is flushed.
	server := startForeignFile(t, l, "s1", disk, []string{"--tls=require", "--tls-certificates=" + certs, "--filter=cache"}, nil)
	g := rack.Boot(t, vm.Backports, vm.Options{
		Lab: l, Host: "v1", Modules: []string{"ext4"}, Loadable: []string{"nbd"}, Files: map[string]string{"/ca.pem": filepath.Join(certs, "ca-cert.pem")},
	})
	run(t, g, "dnbd", "attach", "--tls-ca", "/ca.pem", "--replay", "16M", "nbds://"+server.addr, "/dev/disk")
	mount := []string{"-t", "ext4", "/dev/disk", "/mnt"}
	run(t, g, "mount", mount...)
	p, err := g.Start(within(t), "sh", "-euc", writer)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		before := attachment(t, g).Attachment.Kernel.Requests
		await(t, "there is load", func() bool { return attachment(t, g).Attachment.Kernel.Requests > before+50 })
		server.kill()
		server.start()
	}
	log := attachment(t, g).Log
	await(t, "writes were replayed", func() bool {
		return strings.Contains(run(t, g, "cat", log), "replaying writes that were not flushed")
	})
	fine(t, g, p)
	if bad := run(t, g, "sh", "-c", "dmesg | grep -iE 'EXT4-fs.*(error|warning|abort|read-only)|lost async page write' || true"); bad != "" {
		t.Errorf("the kernel reports %s", bad)
	}
	run(t, g, "mount", mount...)
	run(t, g, "sh", "-ec", "cd /tmp/copy; for f in *; do cmp $f /mnt/$f; done; umount /mnt")
	run(t, g, "dnbd", "detach", "/dev/disk")
	if out, err := exec.Command("e2fsck", "-fn", disk).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v: %s", err, out)
	}
}
