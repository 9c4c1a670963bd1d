// Command storm simulates a room of machines that boot from one image at nearly the same time, in virtual time, and prints what that
// costs the servers and the network and how long the machines wait.
package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dnbd/dnbd/internal/sim"
)

func main() {
	s := sim.NewStorm(1)
	flag.Uint64Var(&s.Seed, "seed", s.Seed, "of all that is random")
	flag.IntVar(&s.Clients, "clients", s.Clients, "that boot")
	flag.IntVar(&s.Servers, "servers", s.Servers, "that serve the image")
	flag.DurationVar(&s.Join, "join", s.Join, "in which all are switched on, one after the other")
	flag.Float64Var(&s.Loss, "loss", s.Loss, "of what arrives at each host")
	flag.Float64Var(&s.Port, "port", s.Port, "bits a second that a server's port carries")
	flag.BoolVar(&s.Crash, "crash", s.Crash, "one server dies when half of the clients are there")
	flag.Parse()
	debug.SetGCPercent(400) // much is made and forgotten, and little of it is large
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "storm:", err)
		os.Exit(1)
	}
}

func run(s sim.Storm) error {
	alone, err := s.Alone().Run()
	if err != nil {
		return err
	}
	begin := time.Now()
	all, err := s.Run()
	if err != nil {
		return err
	}
	took := time.Since(begin)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	row := func(what string, f func(r *sim.StormReport) string) {
		fmt.Fprintf(w, "%s\t%s\t%s\n", what, f(alone), f(all))
	}
	times := func(t [3]time.Duration) string {
		return fmt.Sprintf("%.1f / %.1f / %.1f", ms(t[0]), ms(t[1]), ms(t[2]))
	}
	unique := float64(all.Unique)
	fmt.Fprintf(w, "\tone client\t%d, switched on over %v\n", s.Clients, s.Join)
	row("servers, each with a port of", func(r *sim.StormReport) string { return fmt.Sprintf("%d, %.0f Mbit/s", r.Servers, r.Port/1e6) })
	row("reads of each client, of which waited", func(r *sim.StormReport) string { return fmt.Sprintf("%d, %.1f %%", r.Trace, 100*r.Waited) })
	row("data sent, MB", func(r *sim.StormReport) string { return fmt.Sprintf("%.1f", r.Sent/1e6) })
	row("  over unique bytes read", func(r *sim.StormReport) string { return fmt.Sprintf("%.2f", r.Sent/unique) })
	fmt.Fprintf(w, "  over the least that any server has to send\t\t%.2f\n", all.Sent/all.LeastToSend(all))
	fmt.Fprintf(w, "    with the loss that there is\t\t%.2f\n", all.Sent/all.LeastWithLoss(all))
	fmt.Fprintf(w, "    and if all wait as one alone does, without loss\t\t%.2f\n", all.Sent/all.LeastToSend(alone))
	fmt.Fprintf(w, "  blocks, over that least\t\t%.2f\n", all.Blocks/all.LeastToSend(all))
	share := func(what string, f func(r *sim.StormReport) float64) {
		row("  "+what+", over the blocks", func(r *sim.StormReport) string { return fmt.Sprintf("%.1f %%", 100*f(r)/r.Blocks) })
	}
	share("parity unasked", func(r *sim.StormReport) float64 { return r.Parity })
	share("repairs", func(r *sim.StormReport) float64 { return r.Repairs })
	share("headers", func(r *sim.StormReport) float64 { return r.Sent - r.Blocks - r.Parity - r.Repairs })
	row("control over data", func(r *sim.StormReport) string { return fmt.Sprintf("%.2f %%", 100*r.Control/r.Sent) })
	for _, kind := range slices.Sorted(maps.Keys(all.Kinds)) {
		row("  "+kind, func(r *sim.StormReport) string {
			t := r.Kinds[kind]
			if t == nil {
				return ""
			}
			return fmt.Sprintf("%.2f %%, %.1f a client", 100*t.Bytes/r.Sent, float64(t.Packets)/float64(r.Clients))
		})
	}
	row("control datagrams of a client, a second", func(r *sim.StormReport) string { return fmt.Sprintf("%.1f", r.Packets) })
	row("all reads: median / 99 % / longest, ms", func(r *sim.StormReport) string { return times(r.Reads) })
	row("reads that waited, ms", func(r *sim.StormReport) string { return times(r.Waits) })
	row("boot, ms", func(r *sim.StormReport) string { return times(r.Boot) })
	row("servers' CPU for each client, ms", func(r *sim.StormReport) string { return fmt.Sprintf("%.2f", ms(r.ServerCPU)/float64(r.Clients)) })
	row("virtual time", func(r *sim.StormReport) string { return r.Took.Round(time.Second).String() })
	fmt.Fprintf(w, "real time\t\t%v\n", took.Round(time.Second))
	return w.Flush()
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }
