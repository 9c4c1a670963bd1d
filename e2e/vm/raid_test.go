//go:build linux

package vm_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// TestAnArrayOverThreeServersBearsTheLossOfOne has md spread a load over three servers. One of them dies, and comes back with what it
// had when it died.
func TestAnArrayOverThreeServersBearsTheLossOfOne(t *testing.T) {
	need(t, "nbdkit", "mdadm")
	for level, module := range map[string]string{"raid1": "raid1", "raid5": "raid456"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			onEachKernel(t, func(t *testing.T, k vm.Kernel) {
				vm.Need(t)
				l := lab.ForTest(t, lab.Options{Servers: 3, VMs: 1})
				g := rack.Boot(t, k, vm.Options{
					Lab: l, Host: "v1", Modules: []string{module}, Loadable: []string{"nbd"}, CPUs: 2, Files: rack.Load(),
					Programs: []string{"mdadm"},
				})
				create := []string{
					"--create", "/dev/md0", "--run", "--level=" + level, "--raid-devices=3", "--bitmap=internal", "--assume-clean",
				}
				var servers []*foreign
				for i, host := range l.Servers() {
					server := startForeignOn(t, l, host, 8<<20, nil, nil)
					disk := fmt.Sprintf("/dev/nbd%d", i)
					// Without a limit it would wait for its server, and the array with it.
					run(t, g, "dnbd", "attach", "--driver", "nbd", "--timeout", "10s", "--io-timeout", "1s", server.uri(), disk)
					servers, create = append(servers, server), append(create, disk)
				}
				run(t, g, "mdadm", create...)
				p, err := g.Start(within(t), "/load", "-until", "/tmp/enough", "/dev/md0")
				if err != nil {
					t.Fatal(err)
				}
				array := func(is string) func() bool {
					return func() bool { return strings.Contains(run(t, g, "cat", "/proc/mdstat"), is) }
				}
				servers[1].kill()
				await(t, "the array goes on without its second disk", array("nbd1[1](F)"))
				servers[1].start()
				await(t, "the disk is there again", func() bool {
					_, err := g.Run(within(t), "dd", "if=/dev/nbd1", "of=/dev/null", "bs=4k", "count=1", "iflag=direct")
					return err == nil
				})
				run(t, g, "mdadm", "/dev/md0", "--remove", "/dev/nbd1")
				run(t, g, "mdadm", "/dev/md0", "--re-add", "/dev/nbd1")
				await(t, "the array is whole", array("[UUU]"))
				run(t, g, "touch", "/tmp/enough")
				if out, err := p.Wait(within(t)); err != nil {
					t.Error(err)
				} else {
					t.Log(out)
				}
				run(t, g, "sh", "-ec", "echo check > /sys/block/md0/md/sync_action; mdadm --wait /dev/md0 || true")
				if got := run(t, g, "cat", "/sys/block/md0/md/mismatch_cnt"); got != "0\n" {
					t.Errorf("the disks differ in %s sectors", got)
				}
			})
		})
	}
}
