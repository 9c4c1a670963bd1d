//go:build linux

package main

import (
	"context"
	"fmt"
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
	result   limit  // of dnbd's result ÷ the best of the others
	work     work
}

// work is what a server's processor time is counted by.
type work struct {
	unit  string  // of the time for each
	scale float64 // that unit in a second
	limit limit   // of dnbd's time ÷ the least of the others
}

var (
	perGiBMoved  = work{"s/GiB", 1, atMost(1.2, 0.8)}
	perOperation = work{"µs each", 1e6, atMost(1.2, 0.8)}
)

// done is what a load did.
type done struct {
	result float64
	amount float64 // GiB or operations, as the race's work has it
}

// loadTimeout is how long a server may take for one load, the start of it included: some hang.
const loadTimeout = 40 * time.Second

// runRaces runs rounds of races.
func (r *rig) runRaces(ctx context.Context, s *section, rounds int, races ...race) error {
	for round := range rounds {
		for _, c := range races {
			if err := c.run(ctx, r, s, round); err != nil {
				return fmt.Errorf("%s: %w", c.label, err)
			}
		}
	}
	return nil
}

// run runs one round of a race. In each another server comes first.
func (c race) run(ctx context.Context, r *rig, s *section, round int) error {
	results, times := map[string]float64{}, map[string]float64{}
	for i := range c.programs {
		program := c.programs[(i+round)%len(c.programs)]
		d, cpu, err := c.one(ctx, r, program)
		if err != nil {
			return fmt.Errorf("%s: %w", program.name, err)
		}
		results[program.name], times[program.name] = d.result, cpu/d.amount*c.work.scale
	}
	for _, program := range c.programs {
		s.add(c.label+", "+program.name, c.unit, results[program.name])
		s.add(c.label+", "+program.name+": CPU", c.work.unit, times[program.name])
	}
	peers := "the best"
	if len(c.programs) == 2 {
		peers = c.programs[1].name
	}
	s.add(c.label+": dnbd ÷ "+peers, "", beside(results, c.result.more)).must(c.result)
	s.add(c.label+": dnbd's CPU ÷ "+peers, "", beside(times, false)).must(c.work.limit)
	return nil
}

// one puts the load on one server and returns what was done, and the server's processor time for it in seconds.
func (c race) one(ctx context.Context, r *rig, program nbdProgram) (d done, cpu float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
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

// beside is dnbd's value ÷ the best of the others'.
func beside(values map[string]float64, more bool) float64 {
	var others []float64
	for name, v := range values {
		if name != dnbdServer.name {
			others = append(others, v)
		}
	}
	best := slices.Min(others)
	if more {
		best = slices.Max(others)
	}
	return values[dnbdServer.name] / best
}
