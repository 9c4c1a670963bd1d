//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

const (
	// bootRate is what the server may send, in bit/s: so little that the network is the limit and not the emulation of the machines.
	bootRate     = 5e6
	bootRateText = "5 Mbit/s"
	// bootTime bounds the boot of machines together.
	bootTime = 10 * time.Minute
	// programs reads what a machine starts with: some 28 MB of the image.
	programs = "cd /new/usr; find bin sbin lib/systemd -type f -exec cat {} + > /dev/null"
)

// vmBoot is the picture of the project.
var vmBoot = scenario{
	name:  "boot",
	title: "diskless machines boot together",
	about: "Machines boot a Debian from one server's group, with a layer of their own in memory over it: one alone, and four at once. The " +
		"server's port has " + bootRateText + ". Measured is, from the moment when their kernels are up, how long it takes until all have " +
		"attached and mounted the image and read all its programs (/usr/bin, /usr/sbin, /usr/lib/systemd), for which the network is the " +
		"limit; and how long it takes them from there, by systemd, to the login on the console, for which it is the processors of this one " +
		"machine, by which all are emulated. The bytes are those of the server's port, over all of it.",
	timeout: 3 * vmTimeout,
	run: func(ctx context.Context, r *rig, s *section) error {
		debian, err := vm.Userland()
		if err != nil {
			return err
		}
		image := filepath.Join(r.dir, "userland")
		if err := os.Symlink(debian, image); err != nil {
			return err
		}
		h, err := r.hall(lab.Options{VMs: 5, ServerRate: bootRate})
		if err != nil {
			return err
		}
		defer h.Close()
		server, err := h.serve(ctx, "s1", image)
		if err != nil {
			return err
		}
		defer server.stop()
		for range r.either(2, 1) {
			one, err := h.boot(ctx, "v1")
			if err != nil {
				return err
			}
			four, err := h.boot(ctx, "v2", "v3", "v4", "v5")
			if err != nil {
				return err
			}
			for _, b := range []struct {
				who string
				booted
			}{{"one machine", one}, {"four machines", four}} {
				s.add(b.who+", sent", "MB", float64(b.sent)/1e6)
				s.add(b.who+", programs read", "s", b.read.Seconds())
				s.add(b.who+", from there to the login", "s", b.login.Seconds())
			}
			s.add("sent for four ÷ for one", "", float64(four.sent)/float64(one.sent)).must(atMost(1.25, 1.05))
			s.add("programs read: time of four ÷ of one", "", four.read.Seconds()/one.read.Seconds()).must(atMost(1.3, 1.05))
		}
		return nil
	},
}

// booted is what it took machines to boot together.
type booted struct {
	sent  int64         // bytes, by the server
	read  time.Duration // until all had read their programs
	login time.Duration // from there until somebody was logged in at all of them
}

// boot boots machines together, from the moment in which their kernels are up.
func (h *hall) boot(ctx context.Context, hosts ...string) (b booted, err error) {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	var guests []*guest
	defer func() {
		for _, g := range guests {
			err = errors.Join(err, g.Kill())
		}
	}()
	for _, host := range hosts {
		g, err := h.guest(ctx, host, vm.Options{Modules: []string{"fuse", "loop", "overlay", "erofs"}, Memory: 512, CPUs: 1})
		if err != nil {
			return b, err
		}
		guests = append(guests, g)
	}
	before, err := h.TxBytes("s1")
	if err != nil {
		return b, err
	}
	b.read, err = together(guests, func(g *guest) error {
		if err := g.MountFromGroup(ctx, imageName); err != nil {
			return err
		}
		_, err := g.Run(ctx, "sh", "-ec", programs)
		return err
	})
	if err != nil {
		return b, err
	}
	b.login, err = together(guests, func(g *guest) error {
		if err := g.SwitchRoot(ctx, "/new", "/sbin/init"); err != nil {
			return err
		}
		return g.LogIn(ctx)
	})
	if err != nil {
		return b, err
	}
	after, err := h.TxBytes("s1")
	b.sent = after - before
	return b, err
}

// together has all guests do something at once, and returns how long it took the last of them.
func together(guests []*guest, do func(*guest) error) (time.Duration, error) {
	begun := time.Now()
	var all errgroup.Group
	for _, g := range guests {
		all.Go(func() error { return do(g) })
	}
	err := all.Wait()
	return time.Since(begun), err
}
