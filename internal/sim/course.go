package sim

import (
	"time"
)

// Stream makes the client want the whole image for ever: it loses each block as soon as it has it.
func (c *Client) Stream() {
	c.OnBlock = func(block uint32) {
		c.Evict(block)
		c.Receiver.WantBulk(c.world.now, block)
	}
	c.Copy()
}

// Point is what passed a trunk in a step of time, and what waits there at its end.
type Point struct {
	At    time.Duration // the end of the step, since the course began
	Group float64       // bits a second of everything but TCP
	TCP   float64
	Queue time.Duration
}

// Course lets time pass and returns what passed a trunk in each step of it. What TCP sent is counted where it arrives.
func (w *World) Course(trunk *Trunk, d, step time.Duration, flows ...*TCP) []Point {
	var points []Point
	tcp := func() uint64 {
		n := uint64(0)
		for _, f := range flows {
			n += f.Delivered / tcpSegment * (tcpSegment + frame)
		}
		return n
	}
	rate := func(bytes uint64) float64 { return float64(bytes) * 8 / step.Seconds() }
	passed := func() uint64 { return trunk.Passed - uint64(trunk.Waiting(w.now).Seconds()*trunk.Rate/8) }
	all, others := passed(), tcp()
	for at := step; at <= d; at += step {
		w.Run(step, func() bool { return false })
		a, o := passed(), tcp()
		p := Point{At: at, TCP: rate(o - others), Queue: trunk.Waiting(w.now)}
		p.Group = max(rate(a-all)-p.TCP, 0)
		points = append(points, p)
		all, others = a, o
	}
	return points
}

// Mean is the mean of what passed.
func Mean(points []Point) (m Point) {
	for _, p := range points {
		m.Group += p.Group / float64(len(points))
		m.TCP += p.TCP / float64(len(points))
		m.Queue += p.Queue / time.Duration(len(points))
	}
	return m
}
