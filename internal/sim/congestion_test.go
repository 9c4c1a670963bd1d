package sim

import (
	"fmt"
	"testing"
	"time"
)

// step is the grain of what is looked at here.
const step = 10 * time.Millisecond

// flood starts a server and clients behind the trunk that want data for ever, and returns when the first symbol has been sent.
func (r *room) flood(trunk *Trunk, clients int, link Link) *Server {
	r.t.Helper()
	s := r.serveOver(Link{Rate: 10e9, Delay: lan})
	link.Trunk = trunk
	for range clients {
		r.join(link).Stream()
	}
	r.until(time.Second, "the first symbol is sent", func() bool { return s.Sender.Stats().Symbols > 0 })
	return s
}

// The bounds that are promised: of the link in the first second and after, and of what waits before it.
const (
	fullUse       = 0.9
	standingQueue = 20 * time.Millisecond
)

func TestTheRateOfACleanLinkIsFoundWithinASecond(t *testing.T) {
	for _, c := range []struct {
		rate  float64
		queue time.Duration // that the switch keeps
		run   time.Duration
	}{
		{10e6, 20 * time.Millisecond, 5 * time.Second},
		{10e6, 100 * time.Millisecond, 5 * time.Second},
		{100e6, 2 * time.Millisecond, 5 * time.Second},
		{100e6, 20 * time.Millisecond, 5 * time.Second},
		{100e6, 100 * time.Millisecond, 5 * time.Second},
		{1e9, 2 * time.Millisecond, 2 * time.Second},
		{1e9, 20 * time.Millisecond, 2 * time.Second},
	} {
		t.Run(fmt.Sprintf("%v Mbit per s, %v", c.rate/1e6, c.queue), func(t *testing.T) {
			seeds(t, 2, func(t *testing.T, seed uint64) {
				r := newRoom(t, seed, 16<<20, 64<<10)
				trunk := NewTrunk(c.rate, c.queue)
				r.flood(trunk, 3, Link{})
				points := r.Course(trunk, c.run, step)
				first, rest := Mean(points[:time.Second/step]), Mean(points[time.Second/step:])
				t.Logf("first second %.3f of the link, then %.3f; %v waited on average then", first.Group/c.rate, rest.Group/c.rate, rest.Queue)
				if first.Group < fullUse*c.rate || rest.Group < fullUse*c.rate {
					t.Error("the link is not used")
				}
				if rest.Queue > standingQueue {
					t.Errorf("%v wait all the time", rest.Queue)
				}
			})
		})
	}
}

func TestAServerFillsItsOwnPortWithinHalfASecond(t *testing.T) {
	const rate = 4e9
	r := newRoom(t, 1, 64<<20, 64<<10)
	s := r.serveOver(Link{Rate: rate, Delay: lan})
	r.join(Link{}).Stream()
	r.until(time.Second, "the first symbol is sent", func() bool { return s.Sender.Stats().Symbols > 0 })
	before := s.SentBytes
	r.wait(500 * time.Millisecond)
	used := float64(s.SentBytes-before) * 8 / 0.5 / rate
	t.Logf("%.3f of the port", used)
	if used < fullUse {
		t.Error("the port is not used")
	}
}

func TestTheRateFollowsALinkThatHalvesAndDoubles(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 16<<20, 64<<10)
		trunk := NewTrunk(100e6, 50*time.Millisecond)
		r.flood(trunk, 4, Link{})
		r.wait(2 * time.Second)
		for _, rate := range []float64{50e6, 100e6, 25e6, 200e6} {
			*trunk = *NewTrunk(rate, 50*time.Millisecond)
			points := r.Course(trunk, 3*time.Second, step)
			first, rest := Mean(points[:time.Second/step]), Mean(points[time.Second/step:])
			t.Logf("%v Mbit/s: first second %.3f of the link, then %.3f; %v waited on average", rate/1e6, first.Group/rate, rest.Group/rate, rest.Queue)
			if first.Group < 0.75*rate || rest.Group < fullUse*rate {
				t.Error("the link is not used")
			}
			if rest.Queue > standingQueue {
				t.Errorf("%v wait all the time", rest.Queue)
			}
		}
	})
}

func TestTCPAndAGroupShareATrunk(t *testing.T) {
	for _, c := range []struct {
		rate  float64
		queue time.Duration
	}{
		{100e6, 5 * time.Millisecond},
		{100e6, 20 * time.Millisecond},
		{100e6, 50 * time.Millisecond},
		{100e6, 100 * time.Millisecond},
		{20e6, 50 * time.Millisecond},
	} {
		for _, who := range []string{"TCP", "the group"} {
			t.Run(fmt.Sprintf("%v Mbit per s, %v, %s is first", c.rate/1e6, c.queue, who), func(t *testing.T) {
				seeds(t, 2, func(t *testing.T, seed uint64) {
					r := newRoom(t, seed, 16<<20, 64<<10)
					trunk := NewTrunk(c.rate, c.queue)
					var tcp *TCP
					flow := func() {
						tcp = r.NewTCP(Link{Rate: 1e9, Delay: lan + time.Duration(r.Rand.Int64N(int64(lan)))}, Link{Delay: lan, Trunk: trunk})
					}
					if who == "TCP" {
						flow()
						r.wait(time.Second)
						r.flood(trunk, 2, Link{})
					} else {
						r.flood(trunk, 2, Link{})
						r.wait(time.Second)
						flow()
					}
					m := Mean(r.Course(trunk, 30*time.Second, step, tcp))
					t.Logf("TCP has %.2f of the link, the group %.2f; %v waited on average", m.TCP/c.rate, m.Group/c.rate, m.Queue)
					if m.TCP < 0.3*c.rate {
						t.Error("TCP has too little")
					}
					if m.Group < 0.2*c.rate {
						t.Error("the group has too little")
					}
					if m.TCP+m.Group < fullUse*c.rate {
						t.Error("the link is not used")
					}
				})
			})
		}
	}
}

func TestARoomAloneAgainTakesTheWholeTrunkWithoutAQueue(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 16<<20, 64<<10)
		trunk := NewTrunk(100e6, 50*time.Millisecond)
		r.flood(trunk, 4, Link{})
		tcp := r.NewTCP(Link{Rate: 1e9, Delay: lan}, Link{Delay: lan, Trunk: trunk})
		r.wait(5 * time.Second)
		tcp.Link.Down = true
		r.wait(2 * time.Second)
		m := Mean(r.Course(trunk, 2*time.Second, step))
		t.Logf("%.3f of the link, %v waited on average", m.Group/trunk.Rate, m.Queue)
		if m.Group < fullUse*trunk.Rate || m.Queue > standingQueue {
			t.Error("the room still acts as if it had company")
		}
	})
}

// A medium that loses is not a path that is full.
func TestLossOfTheMediumDoesNotSlowAGroup(t *testing.T) {
	for _, loss := range []float64{0.02, 0.05, 0.1, 0.2} {
		for _, burst := range []float64{0, 8} {
			t.Run(fmt.Sprintf("%v lost, %v in a row", loss, burst), func(t *testing.T) {
				seeds(t, 2, func(t *testing.T, seed uint64) {
					r := newRoom(t, seed, 16<<20, 64<<10)
					trunk := NewTrunk(100e6, 20*time.Millisecond)
					r.flood(trunk, 4, Link{Loss: loss, Burst: burst})
					r.wait(time.Second)
					m := Mean(r.Course(trunk, 4*time.Second, step))
					t.Logf("%.3f of the link, %v waited on average", m.Group/trunk.Rate, m.Queue)
					least := fullUse
					if burst > 1 && loss >= 0.1 {
						least = 0.6 // now and then a row of losses looks like congestion
					}
					if burst > 1 && loss >= 0.2 {
						least = 0.4 // more often, and other seeds have less
					}
					if m.Group < least*trunk.Rate || m.Queue > standingQueue {
						t.Error("loss that is not congestion slows the group")
					}
				})
			})
		}
	}
}
