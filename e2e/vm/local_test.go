//go:build linux

package vm_test

import (
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/vm"
)

// TestAServerAndItsClientShareASmallMachine writes much more to a file system on the device than the machine has memory, with the
// server in the way of every page that is to be freed: and again while another program needs the memory, too, and there is swap.
func TestAServerAndItsClientShareASmallMachine(t *testing.T) {
	t.Parallel()
	onEachKernel(t, func(t *testing.T, k vm.Kernel) {
		g := rack.Boot(t, k, vm.Options{
			Modules: []string{"ext4"}, Loadable: []string{"nbd"}, Memory: 176, CPUs: 2, Files: rack.Load(),
			Disks: []vm.Disk{{Path: blank(t, 256<<20)}, {Path: blank(t, 192<<20)}}, Programs: []string{"mkfs.ext4"},
		})
		run(t, g, "sh", "-ec", `ip link set lo up
			mkdir /below /above
			mkfs.ext4 -q /dev/vda; mount -t ext4 /dev/vda /below
			truncate -s 180M /below/disk
			dnbd serve --group none --writable --nbd 127.0.0.1 /below/disk > /tmp/serve.log 2>&1 &
			until grep -q ^control /tmp/serve.log; do sleep 1; done
			dnbd attach --driver nbd nbd://127.0.0.1/disk /dev/disk
			mkfs.ext4 -q /dev/disk; mount -t ext4 /dev/disk /above`)
		if _, err := g.Run(within(t), "dnbd", "attach", "--driver", "nbd", "--swap", "nbd://127.0.0.1/disk"); err == nil ||
			!strings.Contains(err.Error(), "this machine") {
			t.Errorf("swap on a server of the same machine: %v", err)
		}
		const write = `for i in 1 2 3 4 5 6; do cat /bin/dnbd > /above/$i; done
			sync; echo 3 > /proc/sys/vm/drop_caches
			for i in 1 2 3 4 5 6; do cmp /bin/dnbd /above/$i; done`
		run(t, g, "sh", "-ec", write)
		run(t, g, "sh", "-ec", "mkswap /dev/vdb; swapon /dev/vdb")
		p, err := g.Start(within(t), "/load", "-mode", "memory", "-until", "/tmp/enough", "70")
		if err != nil {
			t.Fatal(err)
		}
		run(t, g, "sh", "-ec", write)
		fine(t, g, p)
		run(t, g, "sh", "-ec", "umount /above; dnbd detach /dev/disk")
	})
}
