//go:build linux

package main

import (
	"bytes"
	"fmt"
	"html"
)

// bar is a value to be drawn.
type bar struct {
	label string
	value float64
	kind  int
}

// The kinds of bars, which have a colour each.
const (
	ours = iota
	theirs
	published
)

// panel is a chart of horizontal bars.
type panel struct {
	title string
	bars  []bar
	full  float64 // the value that fills the width
}

// Sizes in the chart, in pixels.
const (
	chartWidth = 860
	labelWidth = 300
	barWidth   = 460
	barHeight  = 20
	barStep    = 26
	panelHead  = 44
	margin     = 20
)

// chart draws what the port sent and what loss costs.
func (r *report) chart() []byte {
	share := panel{title: "Bytes that the server's port sent ÷ the image (the shorter the better)", full: 8.6}
	for _, b := range []struct {
		label, key string
		kind       int
	}{
		{"dnbd, one client", "share dnbd 1", ours},
		{"dnbd, 8 at once", "share dnbd 8", ours},
		{"dnbd, 8 staggered", "share dnbd late", ours},
		{"udpcast, 8 at once", "share udpcast 8", theirs},
		{"NBD, one client", "share NBD 1", theirs},
		{"NBD, 8 at once", "share NBD 8", theirs},
		{"NBD, 8 staggered", "share NBD late", theirs},
	} {
		share.add(r, b.label, b.key, b.kind)
	}
	torn := panel{title: "Goodput with packets lost at each client ÷ without loss (the longer the better)", full: 1.08}
	for _, l := range lossLimits {
		torn.add(r, fmt.Sprintf("dnbd, 8 clients, %v %% lost", l.percent), fmt.Sprintf("loss %v", l.percent), ours)
		if l.old == 0 {
			continue
		}
		torn.bars = append(torn.bars,
			bar{fmt.Sprintf("DNBD 0.9, one client, %v %% (published)", l.percent), l.old, published},
			bar{fmt.Sprintf("NBD over TCP, one, %v %% (published)", l.percent), l.nbd, published})
	}
	return draw(share, torn)
}

// add adds the figure of a key, if it was measured.
func (p *panel) add(r *report, label, key string, kind int) {
	if f := r.find(key); f != nil {
		p.bars = append(p.bars, bar{label, f.median(), kind})
	}
}

// draw draws panels below one another, in SVG.
func draw(panels ...panel) []byte {
	height := margin
	for _, p := range panels {
		height += panelHead + barStep*len(p.bars)
	}
	height += margin
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="13">
<style>
.k%d { fill: #0b7285 } .k%d { fill: #adb5bd } .k%d { fill: #dee2e6 } .title { font-weight: bold; font-size: 14px }
</style>
<rect width="100%%" height="100%%" fill="#fff"/>
`, chartWidth, height, ours, theirs, published)
	y := margin
	for _, p := range panels {
		fmt.Fprintf(&b, "<text class=\"title\" x=\"%d\" y=\"%d\">%s</text>\n", margin, y+20, html.EscapeString(p.title))
		y += panelHead - (barStep-barHeight)/2
		for _, v := range p.bars {
			w := v.value / p.full * barWidth
			fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", margin+labelWidth-8, y+15, html.EscapeString(v.label))
			fmt.Fprintf(&b, "<rect class=\"k%d\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>\n", v.kind, margin+labelWidth, y, w, barHeight)
			fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\">%.2f</text>\n", float64(margin+labelWidth)+w+6, y+15, v.value)
			y += barStep
		}
		y += (barStep - barHeight) / 2
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
