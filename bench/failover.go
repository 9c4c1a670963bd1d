//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/e2e/lab"
)

// failover is what a reader notices of a replica that fails.
var failover = scenario{
	name:  "failover",
	title: "one of two replicas fails while a device is read",
	about: "Two servers have the same image, each on a port of 200 Mbit/s. A client reads its attached device in order, 64 KiB at a time, " +
		"past the page cache (O_DIRECT). After a third of the image one server is killed (SIGKILL), or stopped (SIGSTOP), each in turn. " +
		"The figure is the longest single read; *nothing happens* is the same without a failure. *Over NBD* there is no group: the client is " +
		"told both servers with `--unicast`. dnbd3 has 19 ms and 37 s.",
	run:     runFailover,
	timeout: 6 * time.Minute,
}

func runFailover(ctx context.Context, r *rig, s *section) error {
	path, err := r.image(ctx, int64(r.either(128, 32)*mib))
	if err != nil {
		return err
	}
	n, err := r.network(lab.Options{Servers: 2, Clients: 1, ServerRate: 200e6})
	if err != nil {
		return err
	}
	defer n.Close()
	for round := range r.either(6, 2) {
		for _, way := range []struct {
			label   string
			unicast bool
		}{{"", false}, {"over NBD, ", true}} {
			for _, c := range []struct {
				label string
				limit limit
				fail  func(*process) error
			}{
				{"nothing happens", limit{}, func(*process) error { return nil }},
				{"a replica is killed", atMost(250, 50), func(p *process) error { p.kill(); return nil }},
				{"a replica is stopped", atMost(250, 50), (*process).freeze},
			} {
				longest, err := n.readThrough(ctx, path, way.unicast, round%2, c.fail)
				if err != nil {
					return fmt.Errorf("%s%s: %w", way.label, c.label, err)
				}
				s.add(way.label+c.label+": the longest read", "ms", longest.Seconds()*1000).must(c.limit)
			}
		}
	}
	return nil
}

// readThrough reads an attached device from two replicas, one of which fails on the way, and returns the time of the longest
// read.
func (n *network) readThrough(ctx context.Context, path string, unicast bool, victim int, fail func(*process) error) (time.Duration, error) {
	attach, flags := n.attach, []string(nil)
	if unicast {
		attach, flags = n.attachUnicast, []string{"--nbd", ":" + dnbdPort}
	}
	var servers []*process
	for _, host := range n.Servers() {
		p, err := n.serve(ctx, host, path, flags...)
		if err != nil {
			return 0, err
		}
		defer p.stop()
		servers = append(servers, p)
	}
	dev, err := attach(ctx, "c1")
	if err != nil {
		return 0, err
	}
	// A read that never ends can only be ended by the device's end.
	defer context.AfterFunc(ctx, dev.detach)()
	defer dev.detach()

	f, err := os.OpenFile(dev.path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	const step = 64 << 10
	buf, err := unix.Mmap(-1, 0, step, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned, as O_DIRECT asks
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(buf)
	var longest time.Duration
	failed := false
	for off := int64(0); off < size; off += step {
		if !failed && off >= size/3 {
			failed = true
			if err := fail(servers[victim]); err != nil {
				return 0, err
			}
		}
		began := time.Now()
		if _, err := f.ReadAt(buf, off); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		longest = max(longest, time.Since(began))
	}
	return longest, nil
}
