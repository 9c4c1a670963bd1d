//go:build linux

// Command bench measures dnbd beside its peers on one machine, in a network of namespaces, and writes docs/benchmarks.md and its
// chart. It needs root, and the programs nbdkit, nbdcopy (Debian: libnbd-bin), qemu-nbd (qemu-utils) and udpcast.
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
	"path/filepath"
	"slices"
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

var scenarios = []scenario{sharing, crowd, single, loss, failover}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	quick := flag.Bool("quick", false, "smaller images and fewer rounds, and no files written")
	only := flag.String("only", "", "measure only these, separated by commas: "+strings.Join(names(), ", "))
	binary := flag.String("dnbd", "", "measure this `program` rather than one built from the checkout")
	docs := flag.String("docs", "docs", "write benchmarks.md and benchmarks.svg to this `folder` after a complete run")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see -help", flag.Arg(0))
	}
	chosen, err := choose(*only)
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

	rep := report{machine: thisMachine()}
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
	if failed != nil || *quick || len(chosen) < len(scenarios) {
		return failed
	}
	return rep.write(filepath.Join(*docs, "benchmarks.md"), filepath.Join(*docs, "benchmarks.svg"))
}

// choose returns the scenarios of a list of names, or all.
func choose(list string) ([]scenario, error) {
	if list == "" {
		return scenarios, nil
	}
	var chosen []scenario
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only %s: there are %s", name, strings.Join(names(), ", "))
		}
		chosen = append(chosen, scenarios[i])
	}
	return chosen, nil
}

func names() []string {
	var n []string
	for _, s := range scenarios {
		n = append(n, s.name)
	}
	return n
}
