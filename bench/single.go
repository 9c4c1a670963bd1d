//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

// single is how fast one client is where the network sets no limit, and at what price.
var single = scenario{
	name:  "single",
	title: "one client, as fast as the machine goes",
	about: "Nothing is shaped: the processors, which server and client share, are the limit. *CPU* is user and system time of the process " +
		"for each GiB of the image. Each server is asked for the image twice; speeds and CPU are those of both copies together. The attached device is read by `dd` with 1 MiB reads, right after it was attached, past the page cache " +
		"as nbdcopy reads: a virtual machine may have to get each new page from its host, at several times the price of everything else. " +
		"Its client's CPU is that of the attaching process, without dd. A real network card cannot do what a veth does with trains of " +
		"datagrams, so ratios here say what the software costs, not what a 10 Gbit/s link would carry.",
	run:     runSingle,
	timeout: 6 * time.Minute,
}

func runSingle(ctx context.Context, r *rig, s *section) error {
	size := int64(r.either(2048, 256) * mib)
	path, err := r.image(ctx, size)
	if err != nil {
		return err
	}
	n, err := r.network(lab.Options{Clients: 1})
	if err != nil {
		return err
	}
	defer n.Close()
	for range r.either(5, 2) {
		own, err := n.measureOne(ctx, s, "dnbd copy", size, n.rig.copyCommand(), func() (*process, error) { return n.serve(ctx, "s1", path) })
		if err != nil {
			return err
		}
		device, err := n.measureDevice(ctx, s, path, size)
		if err != nil {
			return err
		}
		kit, err := n.measureOne(ctx, s, "nbdcopy from nbdkit", size, n.nbdcopyCommand(nbdkitPort), func() (*process, error) { return n.nbdkit(ctx, path) })
		if err != nil {
			return err
		}
		qemu, err := n.measureOne(ctx, s, "nbdcopy from qemu-nbd", size, n.nbdcopyCommand(qemuPort), func() (*process, error) { return n.qemuNBD(ctx, path) })
		if err != nil {
			return err
		}
		s.add("dnbd copy ÷ nbdcopy from nbdkit", "", own/kit).must(atLeast(0.6, 1.2))
		s.add("dnbd copy ÷ nbdcopy from qemu-nbd", "", own/qemu)
		s.add("dnbd device ÷ nbdcopy from nbdkit", "", device/kit)
	}
	return nil
}

// measureOne lets one client fetch the image twice, from a server that was started for it, and returns the MB/s.
func (n *network) measureOne(ctx context.Context, s *section, label string, size int64, client []string,
	serve func() (*process, error),
) (float64, error) {
	server, err := serve()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", label, err)
	}
	before, err := server.cpuSoFar()
	if err != nil {
		server.stop()
		return 0, fmt.Errorf("%s: %w", label, err)
	}
	const copies = 2
	var seconds, cpu float64
	for range copies {
		f, err := n.fetch(ctx, n.Clients(), 0, client)
		if err != nil {
			server.stop()
			return 0, fmt.Errorf("%s: %w", label, err)
		}
		seconds += f.slowest()
		cpu += f.cpu[0]
	}
	server.stop()
	speed := copies * float64(size) / 1e6 / seconds
	s.add(label+": speed", "MB/s", speed)
	s.add(label+": server's CPU s/GiB", "", perGiB(server.cpu()-before, copies*size))
	s.add(label+": client's CPU s/GiB", "", perGiB(cpu, copies*size))
	return speed, nil
}

// measureDevice reads an attached device, whose server has sent the image before, and returns the MB/s.
func (n *network) measureDevice(ctx context.Context, s *section, path string, size int64) (float64, error) {
	server, err := n.serve(ctx, "s1", path)
	if err != nil {
		return 0, err
	}
	defer server.stop()
	if _, err := n.fetch(ctx, n.Clients(), 0, n.rig.copyCommand()); err != nil {
		return 0, err
	}
	dev, err := n.attach(ctx, "c1")
	if err != nil {
		return 0, err
	}
	defer dev.detach()
	before, err := dev.cpuSoFar()
	if err != nil {
		return 0, err
	}
	dd, err := n.start(ctx, "c1", "dd", "if="+dev.path, "of=/dev/null", "bs=1M", "iflag=direct")
	if err != nil {
		return 0, err
	}
	if err := dd.wait(); err != nil {
		return 0, err
	}
	after, err := dev.cpuSoFar()
	if err != nil {
		return 0, err
	}
	memory, err := dev.peakMemory()
	if err != nil {
		return 0, err
	}
	speed := float64(size) / 1e6 / dd.seconds()
	s.add("dnbd device: speed", "MB/s", speed)
	s.add("dnbd device: client's CPU s/GiB", "", perGiB(after-before, size))
	s.add("client's memory, with a cache of 64 MiB", "MiB", memory).must(atMost(128, 64))
	return speed, nil
}

func perGiB(seconds float64, size int64) float64 { return seconds * gib / float64(size) }
