//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// race is one load, and the servers that it is put on in turns.
type race struct {
	label    string
	export   export
	programs []nbdProgram
	load     func(ctx context.Context, r *rig, s *nbdProcess) (done, error)
	unit     string // of the result
	result   limit  // of dnbd's result ÷ that of each of the others
	work     work
}

// work is what a server's processor time is counted by.
type work struct {
	unit  string  // of the time for each
	scale float64 // that unit in a second
	limit limit   // of dnbd's time ÷ that of each of the others
}

var (
	perGiBMoved  = work{"s/GiB", 1, atMost(1.2, 0.8)}
	perOperation = work{"µs each", 1e6, atMost(1.2, 0.8)}
)

// done is what a load did.
type done struct {
	result float64
	amount float64 // GiB or operations, as the race's work has it
	client float64 // processor time of the client, in seconds; 0 where nobody asked
}

// loadTimeout is how long a server may take for one load, the start of it included: some hang.
const loadTimeout = 40 * time.Second

// runRaces runs rounds of races. What has to be reached is reached against each of the others, so that it is asked of the one that dnbd does
// worst against. To take the best of them in each round anew would compare with what none of them does: who is lucky then.
func (r *rig) runRaces(ctx context.Context, s *section, rounds int, races ...race) error {
	for round := range rounds {
		for _, c := range races {
			results, times, err := c.run(ctx, r, s, round)
			if err != nil {
				return fmt.Errorf("%s: %w", c.label, err)
			}
			if round == rounds-1 {
				hardest(results, c.result).must(c.result)
				hardest(times, c.work.limit).must(c.work.limit)
			}
		}
	}
	return nil
}

// hardest is the figure that is the least reason to think that a limit was reached.
func hardest(figures []*figure, l limit) *figure {
	byMedian := func(a, b *figure) int { return cmp.Compare(a.median(), b.median()) }
	if l.more {
		return slices.MinFunc(figures, byMedian)
	}
	return slices.MaxFunc(figures, byMedian)
}

// run runs one round of a race, and returns the figures of dnbd's result and of its processor time ÷ those of each of the others. In each round
// another server comes first.
func (c race) run(ctx context.Context, r *rig, s *section, round int) (results, times []*figure, err error) {
	got, cpus, clients := map[string]float64{}, map[string]float64{}, map[string]float64{}
	for i := range c.programs {
		program := c.programs[(i+round)%len(c.programs)]
		d, cpu, err := c.one(ctx, r, program)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", program.name, err)
		}
		got[program.name], cpus[program.name] = d.result, cpu/d.amount*c.work.scale
		clients[program.name] = d.client / d.amount * c.work.scale
	}
	for _, program := range c.programs {
		s.add(c.label+", "+program.name, c.unit, got[program.name])
		s.add(c.label+", "+program.name+": CPU", c.work.unit, cpus[program.name])
		if client := clients[program.name]; client > 0 {
			s.add(c.label+", "+program.name+": the client's CPU", c.work.unit, client)
		}
	}
	for _, program := range c.programs {
		if ours, peer := dnbdServer.name, program.name; peer != ours {
			results = append(results, s.add(c.label+": dnbd ÷ "+peer, "", got[ours]/got[peer]))
			times = append(times, s.add(c.label+": dnbd's CPU ÷ "+peer, "", cpus[ours]/cpus[peer]))
		}
	}
	return results, times, nil
}

// one puts the load on one server and returns what was done, and the server's processor time for it in seconds.
func (c race) one(ctx context.Context, r *rig, program nbdProgram) (d done, cpu float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	if err := cached(c.export.path); err != nil {
		return d, 0, err
	}
	s, err := r.startNBD(ctx, program, c.export)
	if err != nil {
		return d, 0, err
	}
	defer s.stop()
	before, err := cpuSoFar(s.pid)
	if err != nil {
		return d, 0, err
	}
	if d, err = c.load(ctx, r, s); err != nil {
		return d, 0, err
	}
	if err := s.quiet(ctx); err != nil {
		return d, 0, err
	}
	after, err := cpuSoFar(s.pid)
	return d, after - before, err
}

// cached reads a file, so that all of it is in the page cache: systems that are short of memory give some of it up at any time.
func cached(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(struct{ io.Writer }{io.Discard}, f)
	return err
}
