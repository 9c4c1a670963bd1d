//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

// loss is what repair costs.
var loss = scenario{
	name:  "loss",
	title: "8 clients that each lose packets of their own",
	about: "The server's port is shaped to 200 Mbit/s, and the switch drops a share of the packets to each client at random, independent of the " +
		"others. *Goodput* is the image over the time of the slowest of the eight, as a share of that without loss. Segmentation offload is " +
		"off in all runs, or whole trains of packets would be lost at once. DNBD 0.9 published 0.74, 0.62 and 0.21 for one client, and " +
		"0.27, 0.13 and 0.03 for NBD over TCP, at 1, 2 and 10 %. *In rows* means that the packets of each client are lost eight in a row, once in some " +
		"80, as they fade on a radio.",
	run:     runLoss,
	timeout: 10 * time.Minute,
}

// lossLimits are what the goodput must be at a loss in percent, and what DNBD 0.9 and NBD over TCP had according to the former's
// documentation, if they told.
var lossLimits = []struct {
	percent  float64
	limit    limit
	old, nbd float64
}{
	{1, atLeast(0.95, 0.97), 0.74, 0.27},
	{2, atLeast(0.92, 0.95), 0.62, 0.13},
	{10, atLeast(0.78, 0.85), 0.21, 0.03},
	{20, atLeast(0.65, 0.75), 0, 0},
}

// Of the packets to a client lossRow in a row are lost, and lossPeriod from one row to the next, a little more or less at each, so that
// they do not all lose the same.
const (
	lossRow    = 8
	lossPeriod = 10 * lossRow
)

func runLoss(ctx context.Context, r *rig, s *section) error {
	size := int64(r.either(128, 32) * mib)
	path, err := r.image(ctx, size)
	if err != nil {
		return err
	}
	n, err := r.network(lab.Options{Clients: 8, ServerRate: 200e6})
	if err != nil {
		return err
	}
	defer n.Close()
	if err := n.GSO("s1", false); err != nil {
		return err
	}
	for range r.either(5, 1) {
		whole, err := n.served(ctx, n.Clients(), 0, path)
		if err != nil {
			return fmt.Errorf("without loss: %w", err)
		}
		s.add("no loss: goodput of the slowest", "MB/s", float64(size)/1e6/whole.slowest())
		for _, l := range lossLimits {
			for _, host := range n.Clients() {
				if err := n.Loss(host, l.percent); err != nil {
					return err
				}
			}
			torn, err := n.served(ctx, n.Clients(), 0, path)
			if err != nil {
				return fmt.Errorf("%v %% loss: %w", l.percent, err)
			}
			s.add(fmt.Sprintf("%v %% loss: goodput ÷ without loss", l.percent), "", whole.slowest()/torn.slowest()).
				must(l.limit).bar(fmt.Sprintf("loss %v", l.percent))
			s.add(fmt.Sprintf("%v %% loss: port ÷ without loss", l.percent), "", ratio(torn.port, whole.port))
		}
		for i, host := range n.Clients() {
			if err := n.LossInRows(host, lossRow, lossPeriod-7+2*i); err != nil {
				return err
			}
		}
		torn, err := n.served(ctx, n.Clients(), 0, path)
		if err != nil {
			return fmt.Errorf("loss in rows: %w", err)
		}
		s.add("10 % loss in rows: goodput ÷ without loss", "", whole.slowest()/torn.slowest())
		s.add("10 % loss in rows: port ÷ without loss", "", ratio(torn.port, whole.port))
		for _, host := range n.Clients() {
			if err := n.ClearLoss(host); err != nil {
				return err
			}
		}
	}
	return nil
}
