//go:build linux

package vm_test

import (
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/vm"
)

// TestExportsAreReachedOverVsock has programs of a machine read and write a server's export as those of a virtual machine and its host do.
func TestExportsAreReachedOverVsock(t *testing.T) {
	need(t, "nbdinfo", "nbdcopy")
	t.Parallel()
	g := rack.Boot(t, vm.Backports, vm.Options{Modules: []string{"vsock_loopback", "nbd"}, Memory: 512, Programs: []string{"nbdinfo", "nbdcopy"}})
	said := run(t, g, "sh", "-ec", `head -c 3000000 /dev/urandom > /tmp/odd
		dnbd serve --group none --writable --nbd vsock:10809 /tmp/odd > /tmp/serve.log 2>&1 &
		until grep -q ^control /tmp/serve.log; do sleep 1; done
		cat /tmp/serve.log`)
	if !strings.Contains(said, "nbd+vsock://1:10809\n") {
		t.Errorf("the server says %s", said)
	}
	run(t, g, "sh", "-ec", `dnbd copy nbd+vsock://1/odd /tmp/copy
		cmp /tmp/odd /tmp/copy`)
	if size := run(t, g, "nbdinfo", "--size", "nbd+vsock://1/odd"); size != "3000000\n" {
		t.Errorf("libnbd sees %s bytes", size)
	}
	// It waits for the server to end the connection, and calls it an error if that happens before it looks.
	run(t, g, "sh", "-ec", `nbdcopy nbd+vsock://1/odd /tmp/theirs || true
		cmp /tmp/odd /tmp/theirs`)
	// The kernel's driver takes no such socket, so this goes through the process.
	run(t, g, "sh", "-ec", `dnbd attach --driver nbd nbd+vsock://1/odd /dev/odd
		cmp -n 3000000 /tmp/odd /dev/odd
		echo written | dd of=/dev/odd bs=512 seek=5000 conv=sync,fsync
		test "$(dd if=/tmp/odd bs=512 skip=5000 count=1 | head -c 7)" = written
		dnbd detach /dev/odd`)
}
