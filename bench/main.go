//go:build linux

// Command bench measures dnbd beside its peers on one machine and writes a page of docs, for each set of scenarios one. The
// set group runs in a network of namespaces and needs root; the set nbd compares NBD servers. Both need what
// scripts/install-deps.sh bench installs.
//
// What is compared runs in turns, a round of everything after another, so that a machine that others use disturbs all of it
// alike. A ratio is taken within a round. The figure is the median of the rounds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// scenario is one thing to measure.
type scenario struct {
	name    string
	title   string
	about   string // what is done, and what the figures mean
	run     func(ctx context.Context, r *rig, s *section) error
	timeout time.Duration
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	quick := flag.Bool("quick", false, "smaller images and fewer rounds, and no files written")
	setName := flag.String("set", sets[0].name, "which `set` of scenarios to measure: "+strings.Join(setNames(), ", "))
	only := flag.String("only", "", "measure only these `scenarios`, separated by commas: "+allNames())
	binary := flag.String("dnbd", "", "measure this `program` rather than one built from the checkout")
	docs := flag.String("docs", "docs", "write the set's page to this `folder` after a complete run")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see -help", flag.Arg(0))
	}
	set, err := findSet(*setName)
	if err != nil {
		return err
	}
	chosen, err := set.choose(*only)
	if err != nil {
		return err
	}

	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	dir, err := os.MkdirTemp("", "dnbd-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r := &rig{dir: dir, dnbd: *binary, quick: *quick}
	if r.dnbd == "" {
		if err := r.build(ctx); err != nil {
			return err
		}
	}

	rep := report{set: set, machine: thisMachine(set.versions)}
	began := time.Now()
	var failed error
	for _, sc := range chosen {
		fmt.Printf("%s: %s\n", sc.name, sc.title)
		s := &section{scenario: sc}
		r.commands = &s.commands
		sctx, stop := context.WithTimeout(ctx, sc.timeout)
		err := sc.run(sctx, r, s)
		stop()
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err != nil {
			s.failure = err
			failed = errors.Join(failed, fmt.Errorf("%s: %w", sc.name, err))
		}
		s.load = load()
		s.print(os.Stdout)
		rep.sections = append(rep.sections, s)
	}
	rep.took = time.Since(began)
	rep.summary(os.Stdout)
	if *quick {
		fmt.Println("quick: what an image costs whatever its size weighs more in small ones, so judge by a full run")
	}
	if failed != nil || *quick || len(chosen) < len(set.scenarios) {
		return failed
	}
	return rep.write(*docs)
}
