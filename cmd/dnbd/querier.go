package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/querier"
	"github.com/dnbd/dnbd/internal/udp"
)

// querierFlag is how often hosts are asked for their memberships; 0 for never.
type querierFlag struct {
	interval time.Duration
}

// add gives the flag to a command.
func (f *querierFlag) add(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.interval, "querier", 0, "ask hosts which groups they are members of, every `INTERVAL` from 1s to 125s: for switches with "+
		"snooping where no router or switch asks; needs root or CAP_NET_RAW")
	cmd.Flags().Lookup("querier").NoOptDefVal = querier.DefaultInterval.String()
}

// check refuses an interval that cannot be.
func (f *querierFlag) check(cmd *cobra.Command, group bool) error {
	switch {
	case !cmd.Flags().Changed("querier"):
		return nil
	case !group:
		return usagef("--querier and --group none contradict each other: it asks who is a member of groups")
	case f.interval < querier.MinInterval || f.interval > querier.MaxInterval || f.interval%time.Second != 0:
		return usagef("--querier %v: it is whole seconds, from %v to %v", f.interval, querier.MinInterval, querier.MaxInterval)
	}
	return nil
}

// queriers are those on the interfaces of a server, in their order.
type queriers []*querier.Querier

// open opens them, if they are asked for.
func (f *querierFlag) open(interfaces []udp.Interface, log *slog.Logger) (queriers, error) {
	if f.interval == 0 {
		return nil, nil
	}
	var all queriers
	for _, i := range interfaces {
		q, err := querier.Open(querier.Config{Interface: i.Name, Addr: i.Addr, Interval: f.interval, Log: log})
		if err != nil {
			all.close()
			return nil, err
		}
		all = append(all, q)
	}
	return all, nil
}

// run starts them.
func (all queriers) run(ctx context.Context, wg *sync.WaitGroup) {
	for _, q := range all {
		wg.Go(func() { q.Run(ctx) })
	}
}

func (all queriers) close() {
	for _, q := range all {
		q.Close()
	}
}

// describe says on each link who asks there.
func (all queriers) describe(links []control.Link) {
	for i, q := range all {
		st := q.Status()
		links[i].Querier = &control.Querier{Protocol: st.Protocol, Asking: !st.Other.IsValid()}
		if st.Other.IsValid() {
			links[i].Querier.Other = st.Other.String()
		}
	}
}
