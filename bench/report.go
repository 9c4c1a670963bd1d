//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

// section is what a scenario measured.
type section struct {
	scenario
	figures
	commands []string
	failure  error
	load     string // of the machine when it ended
}

// report is everything that was measured.
type report struct {
	set      set
	machine  machine
	sections []*section
	took     time.Duration
}

// limits says what the figure has to reach, if anything.
func (f *figure) limits() (least, aim string) {
	if !f.limit.given {
		return "", ""
	}
	sign, unit := "≤ ", ""
	if f.limit.more {
		sign = "≥ "
	}
	if f.unit != "" {
		unit = " " + f.unit
	}
	return sign + fmt.Sprint(f.limit.least) + unit, sign + fmt.Sprint(f.limit.aim) + unit
}

// print writes the figures as a table for a terminal.
func (s *section) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range s.figures {
		fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", f.label, f.value(), f.spread(), f.judged())
	}
	table.Flush()
	if s.failure != nil {
		fmt.Fprintln(w, "  failed:", s.failure)
	}
	fmt.Fprintf(w, "  load average %s\n", s.load)
}

// judged is the verdict with the limits, for a line.
func (f *figure) judged() string {
	v := f.verdict()
	if v == "" {
		return ""
	}
	least, aim := f.limits()
	return fmt.Sprintf("%s (%s, aim %s)", v, least, aim)
}

// limited returns the figures that have to reach something.
func (r *report) limited() []*figure {
	var all []*figure
	for _, s := range r.sections {
		for _, f := range s.figures {
			if f.verdict() != "" {
				all = append(all, f)
			}
		}
	}
	return all
}

// summary writes how many limits were kept.
func (r *report) summary(w io.Writer) {
	count := map[string]int{}
	for _, f := range r.limited() {
		count[f.verdict()]++
	}
	fmt.Fprintf(w, "of %d figures %d reach the aim, %d what is asked for at least, %d miss it\n",
		len(r.limited()), count[aimReached], count[leastReached], count[missed])
}

// find returns the figure with a chart's key, or nil.
func (r *report) find(key string) *figure {
	for _, s := range r.sections {
		for _, f := range s.figures {
			if f.key == key {
				return f
			}
		}
	}
	return nil
}

// write writes the report, and the chart if there is one, to a folder.
func (r *report) write(folder string) error {
	page := filepath.Join(folder, r.set.page)
	if err := os.WriteFile(page+".md", r.markdown(), 0o644); err != nil || r.set.chart == "" {
		return err
	}
	return os.WriteFile(page+".svg", r.chart(), 0o644)
}

// pageWidth is the length of the page's lines, in characters.
const pageWidth = 120

// markdown is the report as a page.
func (r *report) markdown() []byte {
	var b bytes.Buffer
	intro := fmt.Sprintf("Measured by `%s`, which writes this page. dnbd and its peers ran side by side, in turns, on one machine %s: %s. "+
		"The machine is shared with others, so compare ratios only. Each figure is the median of its "+
		"rounds, with the smallest and the largest beside it; the whole run took %d minutes.",
		r.set.command, r.set.where, r.machine, int(r.took.Round(time.Minute).Minutes()))
	fmt.Fprintf(&b, "# %s\n\n%s\n\n", r.set.title, wrap(intro, pageWidth))
	fmt.Fprintf(&b, "%s\n\n", wrap("With "+strings.Join(r.machine.versions, ", ")+".", pageWidth))
	if r.set.chart != "" {
		fmt.Fprintf(&b, "![%s](%s.svg)\n\n", r.set.chart, r.set.page)
	}
	fmt.Fprint(&b, "## What has to be reached\n\n")
	fmt.Fprint(&b, "| | figure | at least | aim | |\n|---|---:|---:|---:|---|\n")
	for _, f := range r.limited() {
		least, aim := f.limits()
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", f.label, f.value(), least, aim, f.verdict())
	}
	for _, s := range r.sections {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", capital(s.title), wrap(s.about, pageWidth))
		fmt.Fprint(&b, "| | median | spread | rounds |\n|---|---:|---:|---:|\n")
		for _, f := range s.figures {
			fmt.Fprintf(&b, "| %s | %s | %s | %d |\n", f.label, f.value(), f.spread(), len(f.samples))
		}
		fmt.Fprintf(&b, "\nLoad average at the end: %s. The commands:\n\n", s.load)
		for _, c := range s.commands {
			fmt.Fprintf(&b, "    %s\n", c)
		}
	}
	return b.Bytes()
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// wrap breaks text into lines of at most width characters.
func wrap(text string, width int) string {
	var b strings.Builder
	line := 0
	for word := range strings.FieldsSeq(text) {
		n := len([]rune(word))
		switch {
		case line == 0:
		case line+1+n > width:
			b.WriteByte('\n')
			line = 0
		default:
			b.WriteByte(' ')
			line++
		}
		b.WriteString(word)
		line += n
	}
	return b.String()
}
