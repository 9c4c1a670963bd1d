//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/size"
	"golang.org/x/term"
)

// screen shows how far the readers are: on a terminal a table that changes, elsewhere a line now and then.
type screen struct {
	out      *os.File
	terminal bool
	readers  []*reader
	started  time.Time
	lines    int       // of the table that is on the terminal
	last     time.Time // when a line was written
}

// lineEvery is the time between two lines where there is no terminal.
const lineEvery = 5 * time.Second

func newScreen(out *os.File, readers []*reader, started time.Time) *screen {
	return &screen{out: out, terminal: term.IsTerminal(int(out.Fd())), readers: readers, started: started, last: started}
}

// draw shows the state now; carried is what the server's port sent, in bytes.
func (s *screen) draw(ctx context.Context, carried int64, final bool) {
	if !s.terminal && !final {
		if now := time.Now(); now.Sub(s.last) >= lineEvery {
			s.last = now
			fmt.Fprintf(s.out, "after %2.0f s %d clients have read %s; the server's port has carried %s\n",
				now.Sub(s.started).Seconds(), len(s.readers), size.Format(total(s.readers)), size.Format(carried))
		}
		return
	}
	if s.lines > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.lines) // up to where the table begins, and clear from there
	}
	traffic := traffics(ctx)
	took := time.Since(s.started).Seconds()
	table := tabwriter.NewWriter(s.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "\tREAD\tA SECOND\tASKED FOR\tOVERHEARD\tFILES EQUAL")
	for _, r := range s.readers {
		n, t := r.bytes.Load(), traffic[r.name]
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d of %d\n", r.name, size.Format(n), size.Format(int64(float64(n)/took)),
			size.Format(int64(t.Wanted)), size.Format(int64(t.Overheard)), r.equal.Load(), len(r.files))
	}
	fmt.Fprintf(table, "port of s1\t%s\t%s\n", size.Format(carried), size.Format(int64(float64(carried)/took)))
	// A terminal that cannot be written to is no reason to stop.
	_ = table.Flush()
	s.lines = len(s.readers) + 2
}

// traffics asks the attachments what they received, by client.
func traffics(ctx context.Context) map[string]control.Traffic {
	m := map[string]control.Traffic{}
	// Who does not answer has no figures in the table.
	processes, _, _ := control.List(ctx)
	for _, p := range processes {
		if a := p.Status.Attachment; a != nil {
			m[clientOf(a.Device)] = a.Traffic
		}
	}
	return m
}

func total(readers []*reader) (n int64) {
	for _, r := range readers {
		n += r.bytes.Load()
	}
	return n
}

// summarize says what it came to.
func summarize(w io.Writer, readers []*reader, carried int64, took time.Duration) {
	read, files := total(readers), int64(0)
	for _, r := range readers {
		files += r.equal.Load()
	}
	fmt.Fprintf(w, "\n%d clients read %s in %.1f s; the network carried %s: %.1f times less.\n", len(readers), size.Format(read),
		took.Seconds(), size.Format(carried), float64(read)/float64(carried))
	fmt.Fprintf(w, "All %d files that they read are equal to the originals.\n", files)
}
