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

// bootRate is what the server may send, in bit/s: so little that the network is the limit and not the emulation of the machines.
const bootRate = 5e6

// vmBoot is the picture of the project.
var vmBoot = scenario{
	name:  "boot",
	title: "diskless machines boot together",
	about: "Machines boot a Debian (systemd, to the login on the console) from one server's group, with a layer of their own in memory over it: " +
		"one alone, and four at once. The server's port has 5 Mbit/s, so that the network is the limit: four machines are emulated on the " +
		"processors of this one. The bytes are those of the server's port.",
	timeout: 4 * vmTimeout,
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
		for range r.either(3, 1) {
			one, alone, err := h.boot(ctx, "v1")
			if err != nil {
				return err
			}
			many, all, err := h.boot(ctx, "v2", "v3", "v4", "v5")
			if err != nil {
				return err
			}
			s.add("one machine, sent", "MB", float64(one)/1e6)
			s.add("one machine", "s", alone.Seconds())
			s.add("four machines, sent", "MB", float64(many)/1e6)
			s.add("four machines", "s", all.Seconds())
			s.add("sent for four ÷ for one", "", float64(many)/float64(one)).must(atMost(1.25, 1.05))
			s.add("time of four ÷ of one", "", all.Seconds()/alone.Seconds()).must(atMost(1.3, 1.05))
		}
		return nil
	},
}

// boot boots machines together, from the moment in which their kernels are up, and returns what the server sent and how long it took
// until all had somebody logged in.
func (h *hall) boot(ctx context.Context, hosts ...string) (sent int64, took time.Duration, err error) {
	var guests []*guest
	defer func() {
		for _, g := range guests {
			err = errors.Join(err, g.Kill())
		}
	}()
	for _, host := range hosts {
		g, err := h.guest(ctx, host, vm.Options{Modules: []string{"fuse", "loop", "overlay", "erofs"}, Memory: 512})
		if err != nil {
			return 0, 0, err
		}
		guests = append(guests, g)
	}
	before, err := h.TxBytes("s1")
	if err != nil {
		return 0, 0, err
	}
	begun := time.Now()
	var all errgroup.Group
	for _, g := range guests {
		all.Go(func() error {
			if err := g.RootFromGroup(ctx, imageName); err != nil {
				return err
			}
			return g.LogIn(ctx)
		})
	}
	if err := all.Wait(); err != nil {
		return 0, 0, err
	}
	took = time.Since(begun)
	after, err := h.TxBytes("s1")
	return after - before, took, err
}
