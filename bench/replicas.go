//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

// replicas is what more servers bring.
var replicas = scenario{
	name:  "replicas",
	title: "one image from several servers",
	about: "Each server has a port of 200 Mbit/s of its own, and the client's is not shaped, so the servers are the limit. The client copies the image " +
		"from one, two and four of them, which were started for it.",
	run:     runReplicas,
	timeout: 4 * time.Minute,
}

func runReplicas(ctx context.Context, r *rig, s *section) error {
	path, err := r.image(ctx, int64(r.either(256, 64)*mib))
	if err != nil {
		return err
	}
	n, err := r.network(lab.Options{Servers: 4, Clients: 1, ServerRate: 200e6})
	if err != nil {
		return err
	}
	defer n.Close()
	for range r.either(3, 1) {
		alone, err := n.fetchFrom(ctx, 1, path)
		if err != nil {
			return fmt.Errorf("from one server: %w", err)
		}
		s.add("one server: time", "s", alone)
		for _, c := range []struct {
			servers int
			limit   limit
		}{{2, atLeast(1.8, 2)}, {4, atLeast(3.4, 4)}} {
			seconds, err := n.fetchFrom(ctx, c.servers, path)
			if err != nil {
				return fmt.Errorf("from %d servers: %w", c.servers, err)
			}
			s.add(fmt.Sprintf("%d servers: throughput ÷ one's", c.servers), "", alone/seconds).must(c.limit)
		}
	}
	return nil
}

// fetchFrom returns the seconds that a client takes to copy the image from so many servers.
func (n *network) fetchFrom(ctx context.Context, servers int, path string) (float64, error) {
	for _, host := range n.Servers()[:servers] {
		p, err := n.serve(ctx, host, path)
		if err != nil {
			return 0, err
		}
		defer p.stop()
	}
	f, err := n.fetch(ctx, n.Clients(), 0, n.rig.copyCommand())
	if err != nil {
		return 0, err
	}
	return f.slowest(), nil
}
