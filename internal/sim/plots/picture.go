package main

import (
	"time"

	"github.com/dnbd/dnbd/internal/sim"
)

const (
	window = 4 << 20 // as a real client has it
	lan    = 50 * time.Microsecond
	mbit   = 1e6
)

// picture is a file with what passes a link over time, and what waits before it.
type picture struct {
	file  string
	parts []part
}

// part is one run of the simulator.
type part struct {
	title   string
	rate    float64       // of the link, bits a second
	queue   time.Duration // what the switch before the link keeps
	loss    float64       // of the medium, at each client
	step    time.Duration
	stretch []stretch
}

// stretch is a time in which nothing about the link changes.
type stretch struct {
	length time.Duration
	rate   float64 // of the link; 0: as before
	tcp    bool    // a TCP flow is there
}

var pictures = []picture{
	{"rate-start.svg", []part{
		{
			title: "A link of 100 Mbit/s, three clients", rate: 100 * mbit, queue: 50 * time.Millisecond, step: 10 * time.Millisecond,
			stretch: []stretch{{length: 2 * time.Second}},
		},
		{
			title: "A link of 1 Gbit/s, three clients", rate: 1000 * mbit, queue: 20 * time.Millisecond, step: 10 * time.Millisecond,
			stretch: []stretch{{length: 2 * time.Second}},
		},
	}},
	{"rate-changes.svg", []part{{
		title: "A link that halves, and doubles twice", rate: 100 * mbit, queue: 50 * time.Millisecond, step: 20 * time.Millisecond,
		stretch: []stretch{{length: 2 * time.Second}, {2 * time.Second, 50 * mbit, false}, {2 * time.Second, 100 * mbit, false}, {2 * time.Second, 200 * mbit, false}},
	}}},
	{"rate-tcp.svg", []part{{
		title: "A TCP flow (CUBIC) comes after 5 s and goes after 25 s", rate: 100 * mbit, queue: 50 * time.Millisecond, step: 100 * time.Millisecond,
		stretch: []stretch{{length: 5 * time.Second}, {length: 20 * time.Second, tcp: true}, {length: 5 * time.Second}},
	}}},
	{"rate-loss.svg", []part{{
		title: "1 % of the datagrams are lost at each of three clients, by chance", rate: 100 * mbit, queue: 50 * time.Millisecond, loss: 0.01,
		step: 20 * time.Millisecond, stretch: []stretch{{length: 5 * time.Second}},
	}}},
}

// course is what became of a part.
type course struct {
	part
	points []sim.Point
	link   []float64 // its rate at each point
}

// run runs a part from the first symbol that is sent.
func (p part) run(seed uint64) course {
	w := sim.NewWorld(seed)
	image := sim.NewImage(16<<20, 64<<10)
	trunk := sim.NewTrunk(p.rate, p.queue)
	server := w.NewServer(1, image, 0, sim.Link{Rate: 10e9, Delay: lan})
	for i := range 3 {
		w.NewClient(image, window, sim.Link{Trunk: trunk, Delay: lan + time.Duration(i)*lan/4, Loss: p.loss}).Stream()
	}
	w.Run(time.Second, func() bool { return server.Sender.Stats().Symbols > 0 })
	c := course{part: p}
	began := time.Duration(0)
	for _, s := range p.stretch {
		if s.rate > 0 {
			n := sim.NewTrunk(s.rate, p.queue)
			trunk.Rate, trunk.Queue = n.Rate, n.Queue
		}
		var flows []*sim.TCP
		if s.tcp {
			flows = append(flows, w.NewTCP(sim.Link{Rate: 1e9, Delay: lan}, sim.Link{Delay: lan, Trunk: trunk}))
		}
		for _, point := range w.Course(trunk, s.length, p.step, flows...) {
			point.At += began
			c.points, c.link = append(c.points, point), append(c.link, trunk.Rate)
		}
		for _, f := range flows {
			f.Link.Down = true
		}
		began += s.length
	}
	return c
}

// draw runs the parts and draws them below one another.
func (p picture) draw(seed uint64) []byte {
	var panels []panel
	for _, part := range p.parts {
		panels = append(panels, part.run(seed).panels()...)
	}
	return draw(panels, seed)
}

// panels are a course's rates and queue.
func (c course) panels() []panel {
	link, group, tcp, queue := series{name: "link"}, series{name: "group"}, series{name: "TCP"}, series{name: "queue"}
	top, shared := 0.0, false
	for i, p := range c.points {
		link.values = append(link.values, c.link[i]/mbit)
		group.values = append(group.values, p.Group/mbit)
		tcp.values = append(tcp.values, p.TCP/mbit)
		queue.values = append(queue.values, float64(p.Queue)/float64(time.Millisecond))
		top, shared = max(top, c.link[i]/mbit), shared || p.TCP > 0
	}
	rates := panel{title: c.title, unit: "Mbit/s", top: top * 1.2, step: c.step, height: 150, lines: []series{link, group}}
	if shared {
		rates.lines = append(rates.lines, tcp)
	}
	waiting := float64(c.queue) / float64(time.Millisecond)
	return []panel{rates, {title: "what waits before it", unit: "ms", top: waiting * 1.2, step: c.step, height: 90, lines: []series{queue}}}
}
