//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

// crowd is sharing among many.
var crowd = scenario{
	name:  "crowd",
	title: "100 clients fetch one image",
	about: "The server's port is shaped to 50 Mbit/s. Two cores need a second or more to start 100 processes, so *at once* means that all of them " +
		"run and wait for a server, which is then started; times are from there. In the last run 99 wait for the server, and one more " +
		"starts when the port has sent half the image; the bound is as in *sharing*. *Memory* is the most that the server had resident in the run with 100, files that it maps " +
		"included.",
	run:     runCrowd,
	timeout: 6 * time.Minute,
}

func runCrowd(ctx context.Context, r *rig, s *section) error {
	size := int64(r.either(32, 8) * mib)
	path, err := r.image(ctx, size)
	if err != nil {
		return err
	}
	n, err := r.network(lab.Options{Clients: 100, ServerRate: 50e6})
	if err != nil {
		return err
	}
	defer n.Close()
	all := n.Clients()

	for range r.either(3, 1) {
		lone, _, err := n.gathered(ctx, all[:1], "", path)
		if err != nil {
			return fmt.Errorf("one client: %w", err)
		}
		s.add("one client: port ÷ image", "", ratio(lone.port, size))
		s.add("one client: time", "s", lone.slowest())

		many, memory, err := n.gathered(ctx, all, "", path)
		if err != nil {
			return fmt.Errorf("100 at once: %w", err)
		}
		s.add("100 at once: port ÷ one client's", "", ratio(many.port, lone.port)).must(atMost(1.10, 1.02))
		s.add("100 at once: times a lone client's", "", many.slowest()/lone.slowest())
		s.add("server's memory with 100 clients", "MiB", memory).must(atMost(128, 64))

		last := len(all) - 1
		late, _, err := n.gathered(ctx, all[:last], all[last], path)
		if err != nil {
			return fmt.Errorf("one joins 99: %w", err)
		}
		s.add("one joins 99 half-way: port ÷ the bound", "", ratio(late.port, lone.port+late.before))
		s.add("one joins 99 half-way: its time, times a lone client's", "", late.seconds[last]/lone.slowest())
	}
	return nil
}

// gathered lets clients on hosts wait for a server, starts it, and measures until all have the image: their times, from when
// there was a server, and the server's memory. The client on late, if it is not empty, starts when half the image was sent.
func (n *network) gathered(ctx context.Context, hosts []string, late, path string) (f fetched, memory float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel() // which also ends the clients when something fails
	command := n.rig.copyCommand()
	var clients []*process
	for _, host := range hosts {
		p, err := n.start(ctx, host, command[0], command[1:]...)
		if err != nil {
			return f, 0, err
		}
		clients = append(clients, p)
	}
	err = poll(ctx, "clients to wait for a server", func() (bool, error) {
		for _, p := range clients {
			if !strings.Contains(p.out.String(), "waiting for") {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return f, 0, err
	}
	first, err := n.TxBytes("s1")
	if err != nil {
		return f, 0, err
	}
	server, err := n.serve(ctx, "s1", path)
	if err != nil {
		return f, 0, err
	}
	defer server.stop()
	began := time.Now()
	for _, p := range clients {
		p.began = began
	}
	if late != "" {
		info, err := os.Stat(path)
		if err != nil {
			return f, 0, err
		}
		err = poll(ctx, "half the image", func() (bool, error) {
			sent, err := n.TxBytes("s1")
			f.before = sent - first
			return f.before >= info.Size()/2, err
		})
		if err != nil {
			return f, 0, err
		}
		p, err := n.start(ctx, late, command[0], command[1:]...)
		if err != nil {
			return f, 0, err
		}
		clients = append(clients, p)
	}
	if err := n.finish(ctx, cancel, clients, first, &f); err != nil {
		return f, 0, err
	}
	memory, err = server.peakMemory()
	return f, memory, err
}
