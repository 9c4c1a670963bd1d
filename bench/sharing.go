//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

// sharing is the main promise: many clients cost what one costs.
var sharing = scenario{
	name:  "sharing",
	title: "8 clients fetch one image over a shared port",
	about: "The server's port is shaped to 200 Mbit/s; the image is random bytes. *Port ÷ image* is what the port sent, headers of Ethernet, " +
		"IP and UDP or TCP included, over the size of the image. *Times a lone client's* is the time of the slowest of the eight, each " +
		"measured from the start of its own process to its end, over that of a client that is alone. Every run has a server that was " +
		"started for it. *Staggered* starts are 250 ms apart. What had been sent before the last client started must be sent " +
		"again, once for all who missed it, so *the bound* is what a lone client cost plus that. udpcast cannot take in a receiver " +
		"that comes after the start, so it has no staggered run. NBD to eight clients takes minutes and does not vary: it is measured once.",
	run:     runSharing,
	timeout: 15 * time.Minute,
}

func runSharing(ctx context.Context, r *rig, s *section) error {
	size := int64(r.either(256, 32) * mib)
	path, err := r.image(ctx, size)
	if err != nil {
		return err
	}
	n, err := r.network(lab.Options{Clients: 8, ServerRate: 200e6})
	if err != nil {
		return err
	}
	defer n.Close()
	all := n.Clients()
	const stagger = 250 * time.Millisecond

	for round := range r.either(3, 1) {
		lone, err := n.served(ctx, all[:1], 0, path)
		if err != nil {
			return fmt.Errorf("one client: %w", err)
		}
		s.add("dnbd, one client: port ÷ image", "", ratio(lone.port, size)).must(atMost(1.07, 1.055)).bar("share dnbd 1")
		s.add("dnbd, one client: time", "s", lone.slowest())

		atOnce, err := n.served(ctx, all, 0, path)
		if err != nil {
			return fmt.Errorf("8 at once: %w", err)
		}
		s.add("dnbd, 8 at once: port ÷ image", "", ratio(atOnce.port, size)).bar("share dnbd 8")
		s.add("dnbd, 8 at once: port ÷ one client's", "", ratio(atOnce.port, lone.port)).must(atMost(1.05, 1.01))
		s.add("dnbd, 8 at once: times a lone client's", "", atOnce.slowest()/lone.slowest()).must(atMost(1.25, 1.05)).bar("time dnbd 8")

		late, err := n.served(ctx, all, stagger, path)
		if err != nil {
			return fmt.Errorf("8 staggered: %w", err)
		}
		s.add("dnbd, 8 staggered: port ÷ image", "", ratio(late.port, size)).bar("share dnbd late")
		s.add("dnbd, 8 staggered: port ÷ the bound", "", ratio(late.port, lone.port+late.before)).must(atMost(1.08, 1.02))
		s.add("dnbd, 8 staggered: times a lone client's", "", late.slowest()/lone.slowest()).must(atMost(1.25, 1.05)).bar("time dnbd late")

		if err := n.sharingPeers(ctx, s, round, path, size, stagger); err != nil {
			return err
		}
	}
	return nil
}

// served fetches from a server that is started for it.
func (n *network) served(ctx context.Context, hosts []string, delay time.Duration, path string) (fetched, error) {
	server, err := n.serve(ctx, "s1", path)
	if err != nil {
		return fetched{}, err
	}
	defer server.stop()
	return n.fetch(ctx, hosts, delay, n.rig.copyCommand())
}

// sharingPeers measures the peers of a round.
func (n *network) sharingPeers(ctx context.Context, s *section, round int, path string, size int64, stagger time.Duration) error {
	all := n.Clients()
	cast, err := n.udpcast(ctx, all, path, "198m")
	if err != nil {
		return fmt.Errorf("udpcast: %w", err)
	}
	s.add("udpcast, 8 at once: port ÷ image", "", ratio(cast.port, size)).bar("share udpcast 8")
	s.add("udpcast, 8 at once: time", "s", cast.slowest())
	if alone, err := n.udpcast(ctx, all[:1], path, "198m"); err != nil {
		return fmt.Errorf("udpcast to one: %w", err)
	} else {
		s.add("udpcast, 8 at once: times a lone receiver's", "", cast.slowest()/alone.slowest()).bar("time udpcast 8")
	}

	server, err := n.nbdkit(ctx, path)
	if err != nil {
		return fmt.Errorf("nbdkit: %w", err)
	}
	defer server.stop()
	copyIt := n.nbdcopyCommand(nbdkitPort)
	lone, err := n.fetch(ctx, all[:1], 0, copyIt)
	if err != nil {
		return fmt.Errorf("nbdcopy: %w", err)
	}
	s.add("NBD, one client: port ÷ image", "", ratio(lone.port, size)).bar("share NBD 1")
	s.add("NBD, one client: time", "s", lone.slowest())
	if round > 0 {
		return nil
	}
	atOnce, err := n.fetch(ctx, all, 0, copyIt)
	if err != nil {
		return fmt.Errorf("nbdcopy, 8 at once: %w", err)
	}
	s.add("NBD, 8 at once: port ÷ image", "", ratio(atOnce.port, size)).bar("share NBD 8")
	s.add("NBD, 8 at once: times a lone client's", "", atOnce.slowest()/lone.slowest()).bar("time NBD 8")
	late, err := n.fetch(ctx, all, stagger, copyIt)
	if err != nil {
		return fmt.Errorf("nbdcopy, 8 staggered: %w", err)
	}
	s.add("NBD, 8 staggered: port ÷ image", "", ratio(late.port, size)).bar("share NBD late")
	s.add("NBD, 8 staggered: times a lone client's", "", late.slowest()/lone.slowest()).bar("time NBD late")
	return nil
}

func ratio(a, b int64) float64 { return float64(a) / float64(b) }
