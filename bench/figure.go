//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
)

// figure is something that was measured, once in each round.
type figure struct {
	label   string
	unit    string
	samples []float64
	limit   limit
	key     string // for the chart
}

// limit is what a figure has to reach at least, and what it aims at.
type limit struct {
	least, aim float64
	more       bool // better is more
	given      bool // there is a limit
}

func atMost(least, aim float64) limit  { return limit{least, aim, false, true} }
func atLeast(least, aim float64) limit { return limit{least, aim, true, true} }

// median is the middle of the samples.
func (f *figure) median() float64 {
	s := slices.Sorted(slices.Values(f.samples))
	if len(s) == 0 {
		return 0
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// The verdicts.
const (
	aimReached   = "aim reached"
	leastReached = "reached"
	missed       = "missed"
)

// verdict says whether the median keeps to the limit.
func (f *figure) verdict() string {
	reached := func(v float64) bool {
		if f.limit.more {
			return f.median() >= v
		}
		return f.median() <= v
	}
	switch {
	case !f.limit.given || len(f.samples) == 0:
		return ""
	case reached(f.limit.aim):
		return aimReached
	case reached(f.limit.least):
		return leastReached
	}
	return missed
}

// value is the median with its unit.
func (f *figure) value() string { return number(f.median(), f.unit) }

// spread is the smallest and the largest sample.
func (f *figure) spread() string {
	if len(f.samples) < 2 {
		return ""
	}
	return number(slices.Min(f.samples), "") + " – " + number(slices.Max(f.samples), "")
}

// number formats with as many digits as say something, and at most three after the point.
func number(v float64, unit string) string {
	digits := 0
	switch {
	case v < 10:
		digits = 3
	case v < 100:
		digits = 1
	}
	if unit != "" {
		unit = " " + unit
	}
	return fmt.Sprintf("%.*f%s", digits, v, unit)
}

// figures are one of each label, in the order they came first, with the samples of all rounds.
type figures []*figure

// add adds a sample to the figure of a label, says so, and returns the figure.
func (f *figures) add(label, unit string, sample float64) *figure {
	i := slices.IndexFunc(*f, func(g *figure) bool { return g.label == label })
	if i < 0 {
		i = len(*f)
		*f = append(*f, &figure{label: label, unit: unit})
	}
	g := (*f)[i]
	g.samples = append(g.samples, sample)
	fmt.Fprintf(os.Stderr, "  %s: %s\n", label, number(sample, unit))
	return g
}

// must sets what the figure has to reach.
func (f *figure) must(l limit) *figure {
	f.limit = l
	return f
}

// bar names the figure for the chart.
func (f *figure) bar(key string) *figure {
	f.key = key
	return f
}
