//go:build linux

package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/dnbd/dnbd/internal/sim"
)

// storm is more machines than there are here.
var storm = scenario{
	name:  "storm",
	title: "10,000 machines boot together, in the simulator",
	about: "The protocol's machines run in virtual time (`make sim` shows more of it). Within a minute 10,000 clients are switched on, one after " +
		"the other, and each repeats the 3649 reads of a boot that was recorded; four servers have a port of 250 Mbit/s each, every host loses " +
		"1 % of what comes to it, and one server dies half-way. Who comes later needs again what was sent before, so *the least* is what any " +
		"server has to send that sends each block once for all who wait for it. *Control* is all that is not data, both ways. Reads that the " +
		"cache answers take no time; *reads that waited* are the others.",
	run:     runStorm,
	timeout: 10 * time.Minute,
}

func runStorm(_ context.Context, r *rig, s *section) error {
	// Much is made and forgotten, and little of it is large.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	const percentile99, longest = 1, 2 // of the three times of a report
	r.record("simulator", "make", []string{"sim"})
	for round := range r.either(3, 1) {
		crowd := sim.NewStorm(uint64(round + 1))
		crowd.Clients = r.either(crowd.Clients, 1000)
		one, err := crowd.Alone().Run()
		if err != nil {
			return fmt.Errorf("one client: %w", err)
		}
		all, err := crowd.Run()
		if err != nil {
			return err
		}
		s.add("data sent ÷ the least", "", all.Sent/all.LeastToSend(all)).must(atMost(1.3, 1.05))
		s.add("99th percentile of all reads ÷ one client's", "", all.Reads[percentile99].Seconds()/one.Reads[percentile99].Seconds()).must(atMost(3, 1.5))
		s.add("99th percentile of the reads that waited ÷ one client's", "", all.Waits[percentile99].Seconds()/one.Waits[percentile99].Seconds())
		s.add("the longest read", "ms", all.Reads[longest].Seconds()*1000)
		s.add("control ÷ data", "%", 100*all.Control/all.Sent).must(atMost(2, 0.5))
		s.add("servers' CPU for each client", "ms", all.ServerCPU.Seconds()*1000/float64(all.Clients))
	}
	return nil
}
