package main

import (
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progressBar shows how far something is, on a terminal only.
type progressBar struct {
	w    io.Writer // nil when it is no terminal
	what string
	bar  *progressbar.ProgressBar // once the total is known
}

func newProgressBar(w io.Writer, what string) *progressBar {
	if f, ok := w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		w = nil
	}
	return &progressBar{w: w, what: what}
}

// shown says whether there is anybody to see the bar.
func (p *progressBar) shown() bool { return p.w != nil }

// update shows that done of total bytes are done. That the terminal went away is no reason to stop: errors are not looked at.
func (p *progressBar) update(done, total int64) {
	if p.w == nil {
		return
	}
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(p.w),
			progressbar.OptionSetDescription(p.what),
			progressbar.OptionShowBytes(true),
			progressbar.OptionUseIECUnits(true),
			progressbar.OptionFullWidth(),
			progressbar.OptionThrottle(100*time.Millisecond),
		)
		return // its clock starts now, and there is no rate yet
	}
	_ = p.bar.Set64(done)
}

// end takes the bar off the terminal again.
func (p *progressBar) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
