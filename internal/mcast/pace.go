package mcast

import (
	"math"
	"slices"
	"time"
)

// The rate law. With a rate set by the operator none of it applies.
//
// The sender doubles its rate while all is well. When the median receiver loses more than usual it slows to what got through,
// and looks whether that helped. If it did, the loss was congestion: the rate found is kept for a while and then tried again
// gently. If it did not, the loss has other causes (wireless) and is left to parity: it is usual from then on and the rate
// comes back. The median is what keeps one bad receiver from holding the others.
const (
	startRate  = 500e6 // bits a second, before anything is known
	minRate    = 1e6
	maxRate    = 100e9
	ratePeriod = 10 * time.Millisecond // between two steps
	holdPeriod = 2 * time.Second       // how long a ceiling that was found counts
	congested  = 0.02                  // loss beyond the usual that may mean congestion
	slack      = 0.95                  // of what got through: the path's queue must drain
)

// Burst is how long the sender may send without a pause at its rate, and the least it sends at once, in bytes. Long enough that
// segmentation offload pays at high rates, short enough for switch buffers at low ones.
const (
	burstTime = time.Millisecond
	burstMin  = 8 << 10
	burstMax  = 128 << 10
	// catchUp is how many bursts may follow each other when the sender comes late.
	catchUp = 4
)

// report is what one client told of one stream.
type report struct {
	begun    bool
	seen     uint64
	received uint32
	loss     float64 // moving average
	at       time.Time
}

// reportSpan is the least number of symbols that a loss figure is made of.
const reportSpan = 256

// update takes a report of seen and received in. It returns the stretch of the stream since the last one if that is long
// enough to say something of the loss.
func (r *report) update(now time.Time, seen uint64, received uint32) (stretch, bool) {
	if !r.begun || seen < r.seen || seen-r.seen > 1<<24 {
		*r = report{begun: true, seen: seen, received: received, at: now}
		return stretch{}, false
	}
	s := stretch{after: r.seen, symbols: int(seen - r.seen)}
	if s.symbols < reportSpan {
		return stretch{}, false
	}
	got := min(int(received-r.received), s.symbols)
	s.loss = 1 - float64(got)/float64(s.symbols)
	r.loss += (s.loss - r.loss) / 4
	r.seen, r.received, r.at = seen, received, now
	return s, true
}

// stretch is the loss that one client saw in a stretch of a stream.
type stretch struct {
	after   uint64 // number of the symbol before its first
	symbols int
	loss    float64
}

// pacer is a token bucket whose rate is fixed or follows the receivers' reports.
type pacer struct {
	fixed  bool
	rate   float64 // bits a second
	tokens float64 // bytes; may be negative after a burst
	at     time.Time
	actual throughput

	steps    int       // of the rate so far
	stepped  time.Time // last of them
	limited  bool      // the bucket, not the lack of work, held the sender since then
	usual    float64   // loss that slowing down does not help against
	ceiling  float64   // rate that got through when congestion was last seen, 0 for none
	ceilTime time.Time
	slowed   bool // the last step was down, to see whether that helps
	before   struct{ rate, loss, ceiling float64 }
	samples  []float64
	symbols  int // that the samples speak of
}

func newPacer(fixed uint64) *pacer {
	if fixed > 0 {
		return &pacer{fixed: true, rate: float64(fixed)}
	}
	return &pacer{rate: startRate}
}

// burst is how many bytes may go at once.
func (p *pacer) burst() int {
	return int(min(max(p.rate/8*burstTime.Seconds(), burstMin), burstMax))
}

// refill adds the tokens that time brought, as many as make up for a timer that fires late.
func (p *pacer) refill(now time.Time) {
	if p.at.IsZero() {
		p.at, p.tokens = now, float64(p.burst())
	}
	if d := now.Sub(p.at); d > 0 {
		p.tokens = min(p.tokens+p.rate/8*d.Seconds(), catchUp*float64(p.burst()))
		p.at = now
	}
}

// ready says whether something may be sent now, and if not, when.
func (p *pacer) ready(now time.Time) (bool, time.Time) {
	p.refill(now)
	if p.tokens > 0 {
		return true, now
	}
	p.limited = true
	return false, now.Add(time.Duration((1-p.tokens)*8/p.rate*float64(time.Second)) + 1)
}

// spend takes the tokens for n bytes on the wire.
func (p *pacer) spend(now time.Time, n int) {
	p.tokens -= float64(n)
	p.actual.add(now, n)
}

// expected is how many bits a second the next bytes will leave at: less than the rate where the link is slower than it.
func (p *pacer) expected() float64 {
	if p.actual.rate > 0 {
		return min(p.rate, p.actual.rate)
	}
	return p.rate
}

// throughputSpan is how much busy time makes a throughput figure.
const throughputSpan = 20 * time.Millisecond

// throughput is what left while there was always something to send.
type throughput struct {
	rate  float64 // bits a second, moving average; 0 while nothing is known
	busy  bool
	since time.Time
	bytes int
}

func (t *throughput) add(now time.Time, n int) {
	if !t.busy {
		*t = throughput{rate: t.rate, busy: true, since: now}
	}
	if d := now.Sub(t.since); d >= throughputSpan {
		rate := float64(t.bytes) * 8 / d.Seconds()
		if t.rate == 0 {
			t.rate = rate
		}
		t.rate += (rate - t.rate) / 4
		t.since, t.bytes = now, 0
	}
	t.bytes += n
}

// idle says that there was nothing to send for a while.
func (t *throughput) idle() { t.busy = false }

// sample takes in the loss that one of so many clients saw in a stretch that was sent after the last step.
func (p *pacer) sample(now time.Time, s stretch, clients int) {
	if p.fixed {
		return
	}
	p.samples = append(p.samples, s.loss)
	p.symbols += s.symbols
	if now.Sub(p.stepped) < ratePeriod || len(p.samples) < min(clients, 16) {
		return
	}
	slices.Sort(p.samples)
	median := p.samples[len(p.samples)/2]
	// Twice the standard deviation of a loss counted over so many symbols is chance.
	chance := 2 * math.Sqrt(median*(1-median)/float64(p.symbols))
	excess := median - p.usual
	switch {
	case p.slowed && excess > (p.before.loss-p.usual)/2:
		p.usual, p.rate, p.ceiling = median, p.before.rate, p.before.ceiling
		p.slowed = false
	case excess > congested+chance:
		p.before.rate, p.before.loss, p.before.ceiling = p.rate, median, p.ceiling
		p.slowed = true
		p.ceiling, p.ceilTime = p.rate*(1-median)/(1-p.usual), now
		p.rate = max(p.ceiling*slack, minRate)
	default:
		p.slowed = false
		p.usual += min(excess, 0) / 8
		if p.limited {
			p.grow(now)
		}
	}
	p.samples, p.symbols = p.samples[:0], 0
	p.limited = false
	p.stepped = now
	p.steps++
}

// grow raises the rate: fast where no congestion is known, and up to the rate that got through where it is.
func (p *pacer) grow(now time.Time) {
	switch {
	case p.rate > 1.5*p.ceiling: // there is none, or the path has more than it had
		p.ceiling = 0
		p.rate = min(p.rate*2, maxRate)
	case now.Sub(p.ceilTime) >= holdPeriod:
		p.rate = min(p.rate*1.05, maxRate)
	default:
		p.rate = max(p.rate, min(p.rate*1.05, p.ceiling))
	}
}

// parity decides how many symbols of parity go out unasked with each block: in proportion to the loss that the median
// receiver reports, and as many as some client is nearly sure to lack where there are many. Those would be sent on request all the
// same, after a request of each. The rest is repaired on request.
type parity struct {
	loss   float64
	peers  int // that told of it
	credit float64
	at     time.Time
}

// parityPeriod is the time between two looks at the reports.
const parityPeriod = 100 * time.Millisecond

// reportAge is how long a report counts.
const reportAge = 10 * time.Second

// parityFloor is the loss below which none is sent unasked: asking is cheaper.
const parityFloor = 0.005

func (p *parity) update(now time.Time, peers []*peer, handle uint16) {
	if now.Sub(p.at) < parityPeriod {
		return
	}
	p.at = now
	var losses []float64
	for _, peer := range peers {
		if peer == nil {
			continue
		}
		if r := peer.reports[handle]; r != nil && now.Sub(r.at) < reportAge {
			losses = append(losses, r.loss)
		}
	}
	p.loss, p.peers = 0, len(losses)
	if len(losses) > 0 {
		slices.Sort(losses)
		p.loss = min(losses[len(losses)/2], 0.5)
	}
}

// take returns how many parity symbols go with a generation of k symbols.
func (p *parity) take(k int) int {
	if p.loss < parityFloor {
		return 0
	}
	p.credit += float64(k) * p.loss
	n := int(p.credit)
	p.credit -= float64(n)
	return max(n, p.certain(k))
}

// most is how many parity symbols a generation of k takes at most, as things are.
func (p *parity) most(k int) int {
	if p.loss < parityFloor {
		return 0
	}
	return max(int(math.Ceil(float64(k)*p.loss)), p.certain(k))
}

// nearlySure is how probable it must be that some client lacks one symbol more.
const nearlySure = 0.9

// certain is the largest number of symbols that, nearly surely, some client lacks of a generation of k, were the losses independent
// and the same for all.
func (p *parity) certain(k int) int {
	exactly := math.Pow(1-p.loss, float64(k)) // the probability that a client lacks n
	most := exactly                           // at most n
	n := 0
	for n < k && 1-math.Pow(most, float64(p.peers)) >= nearlySure {
		n++
		exactly *= float64(k-n+1) / float64(n) * p.loss / (1 - p.loss)
		most += exactly
	}
	return n
}
