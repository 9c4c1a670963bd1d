//go:build linux

package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// TestForeignProgramsReadASocketAttachment has the tools of libnbd, QEMU and fio read an image.
func TestForeignProgramsReadASocketAttachment(t *testing.T) {
	t.Parallel()
	need(t, "nbdinfo", "nbdcopy", "qemu-img", "fio")
	r := newRig(t, lab.Options{Clients: 1})
	image := medium(t, "pattern", func(path string) error {
		// Every 4 KiB hold a sum of themselves and their place, which fio checks when it reads them.
		out, err := exec.Command("fio", "--name=fill", "--filename="+path, "--verify_state_save=0", "--size=16M", "--bs=4k", "--rw=write",
			"--verify=crc32c", "--do_verify=0", "--ioengine=psync").CombinedOutput()
		if err != nil {
			return fmt.Errorf("fio: %w: %s", err, out)
		}
		return nil
	})
	r.serve("s1", image)
	_, socket := r.attachSocket("c1", "pattern")
	uri := "nbd+unix:///?socket=" + socket

	if got := r.start("c1", "nbdinfo", "--size", uri).succeed(); strings.TrimSpace(got) != fmt.Sprint(size(t, image)) {
		t.Errorf("nbdinfo says the size is %s, want %d", got, size(t, image))
	}
	if got := r.start("c1", "nbdinfo", uri).succeed(); !strings.Contains(got, "is_read_only: true") {
		t.Errorf("nbdinfo says %s, want it to be read-only", got)
	}
	r.start("c1", "nbdcopy", uri, r.path("nbdcopy")).succeed()
	r.start("c1", "qemu-img", "convert", "-f", "raw", "-O", "raw", uri, r.path("convert")).succeed()
	for _, path := range []string{r.path("nbdcopy"), r.path("convert")} {
		if err := compare(path, image); err != nil {
			t.Error(err)
		}
	}
	r.start("c1", "qemu-img", "compare", "-f", "raw", "-F", "raw", uri, image).succeed()
	for _, depth := range []string{"1", "64"} {
		got := r.start("c1", "fio", "--name=check", "--ioengine=nbd", "--uri="+uri, "--rw=randread", "--bs=4k", "--size=16M",
			"--iodepth="+depth, "--verify=crc32c", "--verify_fatal=1").succeed()
		if !strings.Contains(got, "err= 0") {
			t.Errorf("fio says:\n%s", got)
		}
	}
}
