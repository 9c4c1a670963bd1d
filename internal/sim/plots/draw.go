package main

import (
	"bytes"
	"fmt"
	"html"
	"time"
)

// panel is a chart of values over time.
type panel struct {
	title  string
	unit   string
	top    float64       // value at its upper edge
	step   time.Duration // between two values, the first of which is a step after the begin
	height int           // in pixels
	lines  []series
}

// series is a line. Its name is also its class, which has its look.
type series struct {
	name   string
	values []float64
}

// Sizes in a picture, in pixels.
const (
	pictureWidth = 860
	left         = 90
	plotWidth    = 740
	head         = 34 // above a panel, for its title
	foot         = 22 // below it, for the time
	caption      = 26
)

// draw draws panels below one another, in SVG.
func draw(panels []panel, seed uint64) []byte {
	height := caption
	for _, p := range panels {
		height += head + p.height + foot
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">
<style>
polyline { fill: none; stroke-width: 1.5 } .group { stroke: #0b7285 } .TCP { stroke: #e8590c } .queue { stroke: #495057 }
.link { stroke: #adb5bd; stroke-dasharray: 5 3 } .axis { stroke: #ced4da } .title { font-weight: bold; font-size: 13px } .end { text-anchor: end }
</style>
<rect width="100%%" height="100%%" fill="#fff"/>
`, pictureWidth, height)
	y := 0
	for _, p := range panels {
		y += head
		p.draw(&b, y)
		y += p.height + foot
	}
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" fill=\"#868e96\">simulated, seed %d; make plots draws it</text>\n</svg>\n", left, y+caption-10, seed)
	return b.Bytes()
}

// draw draws a panel whose upper edge is at y.
func (p panel) draw(b *bytes.Buffer, y int) {
	text := func(x, y int, class, s string) {
		fmt.Fprintf(b, "<text class=\"%s\" x=\"%d\" y=\"%d\">%s</text>\n", class, x, y, html.EscapeString(s))
	}
	line := func(x1, y1, x2, y2 int) {
		fmt.Fprintf(b, "<path class=\"axis\" d=\"M%d %dL%d %d\"/>\n", x1, y1, x2, y2)
	}
	text(left, y-10, "title", p.title)
	bottom := y + p.height
	for v := 0.0; v <= p.top; v += grid(p.top) {
		at := bottom - int(v/p.top*float64(p.height))
		line(left, at, left+plotWidth, at)
		text(left-6, at+4, "end", fmt.Sprintf("%g %s", v, p.unit))
	}
	length := p.step * time.Duration(len(p.lines[0].values))
	for s := 0.0; s <= length.Seconds(); s += grid(length.Seconds()) {
		at := left + int(s/length.Seconds()*plotWidth)
		line(at, bottom, at, bottom+4)
		text(at-8, bottom+17, "", fmt.Sprintf("%g s", s))
	}
	// Names stand at the right of the title, the last one rightmost.
	for i, s := range p.lines {
		fmt.Fprintf(b, "<polyline class=\"%s\" points=\"", s.name)
		for n, v := range s.values {
			fmt.Fprintf(b, "%.1f,%.1f ", left+float64(n+1)/float64(len(s.values))*plotWidth, float64(bottom)-min(v/p.top, 1)*float64(p.height))
		}
		b.WriteString("\"/>\n")
		x := left + plotWidth - 80*(len(p.lines)-i)
		if len(p.lines) > 1 {
			fmt.Fprintf(b, "<polyline class=\"%s\" points=\"%d,%d %d,%[3]d\"/>\n", s.name, x, y-14, x+24)
			text(x+30, y-10, "", s.name)
		}
	}
}

// grid is a round distance between lines, of which up to six fit.
func grid(top float64) float64 {
	for unit := 0.1; ; unit *= 10 {
		for _, n := range []float64{1, 2, 5} {
			if top/(n*unit) <= 6 {
				return n * unit
			}
		}
	}
}
