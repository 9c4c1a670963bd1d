// Package boot_test tests the shell scripts with which machines boot from a group, as far as that goes without booting.
package boot_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestTheCommandLineIsUnderstood(t *testing.T) {
	const nameless = " on the kernel's command line names no image: write dnbd=GROUP:IMAGE or nbdroot=SERVER,EXPORT"
	for _, shell := range [][]string{{"sh"}, {"busybox", "sh"}} { // dash as in klibc, and ash
		if _, err := exec.LookPath(shell[0]); err != nil {
			if os.Getenv("DNBD_REQUIRE") == "1" {
				t.Fatal("DNBD_REQUIRE=1: ", err)
			}
			t.Skip(err)
		}
		for _, c := range []struct{ line, want string }{
			{"dnbd=239.0.0.7:debian", "image dnbd://239.0.0.7/debian flags overlay memory"},
			{"quiet dnbd=:debian@3 ro", "image debian@3 flags overlay memory"},
			{"dnbd=[ff15::1]:debian:overlay=none", "image dnbd://[ff15::1]/debian flags overlay none"},
			{
				"dnbd=:debian:cache-size=1G,verbose,overlay=memory",
				"image debian flags --cache-size=1G --verbose overlay memory",
			},
			{"dnbd=dnbd://239.0.0.7:99/debian,driver=nbd", "image dnbd://239.0.0.7:99/debian flags --driver=nbd overlay memory"},
			{"dnbd=dnbd://[ff15::1]:99/debian", "image dnbd://[ff15::1]:99/debian flags overlay memory"},
			{
				"dnbd=:debian:trust=RWSlYfxuHLOdZJFRTs0eyhkwjdKFD6LVozMnNvo3CZ0vpcrroO4PUIAu,io-timeout=1m",
				"image debian flags --trust=RWSlYfxuHLOdZJFRTs0eyhkwjdKFD6LVozMnNvo3CZ0vpcrroO4PUIAu --io-timeout=1m overlay memory",
			},
			{
				"dnbd=:debian:unicast=10.0.0.1,unicast=[fd00::1]:99",
				"image debian flags --unicast=10.0.0.1 --unicast=[fd00::1]:99 overlay memory",
			},
			{
				"dnbd=239.0.0.7:debian:group-key=/etc/dnbd/initramfs.key,cow=mem",
				"image dnbd://239.0.0.7/debian flags --group-key=/etc/dnbd/initramfs.key --cow=mem overlay none",
			},
			{"dnbd=:first dnbd=:last", "image last flags overlay memory"},
			{"dnbd=:debian:cow=mem,driver=ublk", "image debian flags --cow=mem --driver=ublk overlay none"},
			{"dnbd=nbd://10.0.0.1/disk,overlay=memory", "image nbd://10.0.0.1/disk flags overlay memory"},
			{"nbdroot=10.0.0.1,disk", "image nbd://10.0.0.1/disk flags overlay none"},
			{"root=/dev/nbd0 nbdroot=10.0.0.1,disk,nbd0", "image nbd://10.0.0.1/disk flags overlay none"},
			{"nbdroot=10.0.0.1,2000,nbd0", "image nbd://10.0.0.1:2000/ flags overlay none"},
			{"nbdroot=10.0.0.1:2000/disk", "image nbd://10.0.0.1:2000/disk flags overlay none"},
			{"nbdroot=[fd00::1]:2000/disk", "image nbd://[fd00::1]:2000/disk flags overlay none"},
			{"dnbd=debian", "no: dnbd=debian" + nameless},
			{"dnbd=239.0.0.7:", "no: dnbd=239.0.0.7:" + nameless},
			{"dnbd=", "no: dnbd=" + nameless},
			{"nbdroot=dhcp", "no: nbdroot=dhcp" + nameless},
			{"nbdroot=,disk", "no: nbdroot=,disk" + nameless},
			{"nbdroot=10.0.0.1", "no: nbdroot=10.0.0.1" + nameless},
			{"dnbd=:debian:overlay=disk", "no: overlay=disk in dnbd= on the kernel's command line: there are memory and none"},
		} {
			script := ". ./dnbd-root.sh; " +
				"if dnbd_parse $0; then echo image $dnbd_image flags $dnbd_flags overlay $dnbd_overlay; else echo no: $dnbd_why; fi"
			out, err := exec.Command(shell[0], append(shell[1:], "-c", script, c.line)...).CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
				t.Errorf("%v: %s: %v, %q, want %q", shell, c.line, err, got, c.want)
			}
		}
	}
}
