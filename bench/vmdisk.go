//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// vmClients is this program's attachment beside nbd-client's.
var vmClients = scenario{
	name:  "clients",
	title: "attached by dnbd, and by nbd-client",
	about: "A machine has an export of nbdkit twice: attached by nbd-client, and by `dnbd attach --driver nbd`, both as they are by default. " +
		"Both are read past the page cache: 256 KiB in order by two readers, and 4 KiB at random by 16.",
	timeout: vmTimeout,
	run: func(ctx context.Context, r *rig, s *section) (err error) {
		h, err := r.hall(lab.Options{VMs: 1})
		if err != nil {
			return err
		}
		defer h.Close()
		server, uri, err := h.nbdkit(ctx, 64*mib)
		if err != nil {
			return err
		}
		defer server.stop()
		g, err := h.guest(ctx, "v1", vm.Options{Loadable: []string{"nbd"}, Programs: []string{"nbd-client"}})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, g.Kill()) }()
		if err := g.all(
			ctx,
			[]string{"modprobe", "nbd"},
			[]string{"nbd-client", h.Addr("s1").String(), "/dev/nbd0"},
			[]string{"dnbd", "attach", "--driver", "nbd", uri, "/dev/nbd1"},
		); err != nil {
			return err
		}
		return compare(ctx, s, r.either(11, 2), contender{"dnbd", "/dev/nbd1"}, contender{"nbd-client", "/dev/nbd0"}, atLeast(0.95, 1.1),
			g.sequential("sequential reads"), g.random("4 KiB random reads", 16))
	},
}

// vmDrivers is ublk beside the kernel's NBD driver.
var vmDrivers = scenario{
	name:  "drivers",
	title: "ublk, and the kernel's NBD driver",
	about: "A machine has an image of a group attached twice, with `--driver ublk` and with `--driver nbd`, and all of it in the caches of both. " +
		"It is read past the page cache, 4 KiB at random by 32 readers.",
	timeout: vmTimeout,
	run: func(ctx context.Context, r *rig, s *section) (err error) {
		h, err := r.hall(lab.Options{VMs: 1})
		if err != nil {
			return err
		}
		defer h.Close()
		stop, err := h.serveImage(ctx, 32*mib)
		if err != nil {
			return err
		}
		defer stop()
		g, err := h.guest(ctx, "v1", vm.Options{Loadable: []string{"nbd", "ublk_drv"}, Memory: 512})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, g.Kill()) }()
		for _, driver := range []string{"ublk", "nbd"} {
			if err := g.all(ctx, []string{"dnbd", "attach", "--driver", driver, imageName, "/dev/" + driver},
				[]string{"dd", "if=/dev/" + driver, "of=/dev/null", "bs=1M"}); err != nil {
				return err
			}
		}
		return compare(ctx, s, r.either(7, 2), contender{"ublk", "/dev/ublk"}, contender{"nbd", "/dev/nbd"}, atLeast(1.3, 3),
			g.random("4 KiB random reads", 32))
	},
}

// vmOverlay is an overlay beside a loop device.
var vmOverlay = scenario{
	name:  "overlay",
	title: "local writes over an image, and a plain file",
	about: "A machine has an image attached with `--cow FILE`, and loop devices on other files of the same ext4: one as `losetup` makes it, " +
		"and one with direct I/O, which has no cache of its own to write to. All are written to past the page cache that is theirs: 256 KiB " +
		"in order by two writers, and 4 KiB at random by 16, again and again over the same 32 MiB.",
	timeout: vmTimeout,
	run: func(ctx context.Context, r *rig, s *section) (err error) {
		h, err := r.hall(lab.Options{VMs: 1})
		if err != nil {
			return err
		}
		defer h.Close()
		stop, err := h.serveImage(ctx, 32*mib)
		if err != nil {
			return err
		}
		defer stop()
		disk, err := r.blank("vm.disk", 256*mib)
		if err != nil {
			return err
		}
		g, err := h.guest(ctx, "v1", vm.Options{
			Modules: []string{"ext4", "loop"}, Loadable: []string{"ublk_drv"}, Disks: []vm.Disk{{Path: disk}}, Memory: 512,
			Programs: []string{"mkfs.ext4", "losetup"},
		})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, g.Kill()) }()
		if err := g.all(ctx, []string{"sh", "-ec", "mkfs.ext4 -q /dev/vda; mount -t ext4 /dev/vda /mnt; truncate -s 32M /mnt/file /mnt/direct"},
			[]string{"losetup", "/dev/loop0", "/mnt/file"},
			[]string{"losetup", "--direct-io=on", "/dev/loop1", "/mnt/direct"},
			[]string{"dnbd", "attach", "--cow", "/mnt/overlay", imageName, "/dev/over"}); err != nil {
			return err
		}
		over, aspects := contender{"overlay", "/dev/over"}, []aspect{g.sequential("sequential writes", "-write"), g.random("4 KiB random writes", 16, "-write")}
		if err := compare(ctx, s, r.either(11, 2), over, contender{"loop", "/dev/loop0"}, atLeast(0.5, 0.9), aspects...); err != nil {
			return err
		}
		return compare(ctx, s, r.either(5, 2), over, contender{"loop with direct I/O", "/dev/loop1"}, limit{}, aspects...)
	},
}

// vmSurvival is what becomes of a device whose process or server dies.
var vmSurvival = scenario{
	name:  "survival",
	title: "kill -9, --resume, and release by force",
	about: "A machine writes to an export of nbdkit, reads it back and compares, with 16 programs at once. The process of the attachment is killed " +
		"(SIGKILL) 20 times under that load, and `dnbd attach --resume` takes its device over: one of ublk, one of the kernel's NBD driver " +
		"with the process between it and the server, and one where the kernel talks to the server itself. *Errors* are requests that " +
		"failed, bytes that are not what was written, and errors in the kernel's log. Then the server is stopped (SIGSTOP) while a program reads, and " +
		"`dnbd detach --force` releases the device; the time is that of the command in the emulated machine.",
	timeout: 2 * vmTimeout,
	run: func(ctx context.Context, r *rig, s *section) (err error) {
		h, err := r.hall(lab.Options{VMs: 1})
		if err != nil {
			return err
		}
		defer h.Close()
		server, uri, err := h.nbdkit(ctx, 16*mib)
		if err != nil {
			return err
		}
		defer server.stop()
		g, err := h.guest(ctx, "v1", vm.Options{Loadable: []string{"nbd", "ublk_drv"}})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, g.Kill()) }()
		rounds := r.either(20, 2)
		for _, c := range []struct {
			name  string
			flags []string
		}{
			{"ublk", []string{"--driver", "ublk"}},
			{"nbd, through the process", []string{"--driver", "nbd", "--relay", "--timeout", "1s"}},
			{"nbd, by the kernel", []string{"--driver", "nbd"}},
		} {
			attach := append(c.flags, uri, "/dev/disk")
			wrong, err := g.killRounds(ctx, rounds, attach)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			s.add(fmt.Sprintf("%s: errors in %d rounds", c.name, rounds), "", float64(wrong)).must(atMost(0, 0))
			for range r.either(5, 1) {
				took, err := g.release(ctx, server, attach)
				if err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
				s.add(c.name+": release of a hung device", "s", took.Seconds()).must(atMost(5, 1))
			}
		}
		return nil
	},
}

// killRounds attaches a device and puts a verified load on it while its process is killed and another takes over, again and again. It
// returns how many errors there were.
func (g *guest) killRounds(ctx context.Context, rounds int, attach []string) (wrong int, err error) {
	if _, err := g.do(ctx, "dnbd", append([]string{"attach"}, attach...)...); err != nil {
		return 0, err
	}
	g.Run(ctx, "sh", "-c", "rm -f /tmp/enough; dmesg -c > /dev/null")
	p, err := g.Start(ctx, "/load", "-until", "/tmp/enough", "/dev/disk")
	if err != nil {
		return 0, err
	}
	for range rounds {
		before, err := g.attachment(ctx)
		if err != nil {
			return 0, err
		}
		err = poll(ctx, "load", func() (bool, error) {
			now, err := g.attachment(ctx)
			return err == nil && now.Attachment.Kernel.Requests > before.Attachment.Kernel.Requests+50, err
		})
		if err != nil {
			return 0, err
		}
		if err := g.Signal(ctx, before.PID, syscall.SIGKILL); err != nil {
			return 0, err
		}
		if _, err := g.do(ctx, "dnbd", append([]string{"attach", "--resume"}, attach...)...); err != nil {
			return 0, err
		}
	}
	if _, err := g.do(ctx, "touch", "/tmp/enough"); err != nil {
		return 0, err
	}
	if _, err := p.Wait(ctx); err != nil {
		var failed *vm.ExitError
		if !errors.As(err, &failed) {
			return 0, err
		}
		wrong++
	}
	reported, err := g.do(ctx, "sh", "-c", "dmesg | grep -ci 'I/O error' || true")
	if err != nil {
		return 0, err
	}
	var n int
	if _, err := fmt.Sscan(reported, &n); err != nil {
		return 0, err
	}
	_, err = g.do(ctx, "dnbd", "detach", "/dev/disk")
	return wrong + n, err
}

// release attaches a device, has its server hang while a program reads, and returns how long it takes to release it by force.
func (g *guest) release(ctx context.Context, server *process, attach []string) (time.Duration, error) {
	if _, err := g.do(ctx, "dnbd", append([]string{"attach"}, attach...)...); err != nil {
		return 0, err
	}
	if err := server.freeze(); err != nil {
		return 0, err
	}
	p, err := g.Start(ctx, "dd", "if=/dev/disk", "of=/dev/null", "iflag=direct", "bs=4k", "count=1")
	if err == nil {
		err = poll(ctx, "a reader that waits", func() (bool, error) {
			_, err := g.Run(ctx, "grep", "-q", "^State:.D", fmt.Sprintf("/proc/%d/status", p.PID))
			return err == nil, ctx.Err()
		})
	}
	begun := time.Now()
	if err == nil {
		_, err = g.do(ctx, "dnbd", "detach", "--force", "/dev/disk")
	}
	took := time.Since(begun)
	if err == nil {
		if _, ended := p.Wait(ctx); ended == nil {
			err = errors.New("a read from a server that hangs succeeded")
		}
	}
	return took, errors.Join(err, server.cmd.Process.Signal(syscall.SIGCONT))
}
