package mcast

import "time"

// Burst is how long the sender may send without a pause at its rate, and the least it sends at once, in bytes. Long enough that
// segmentation offload pays at high rates, short enough for switch buffers at low ones.
const (
	burstTime = time.Millisecond
	burstMin  = 3 << 10
	burstMax  = 128 << 10
	// catchUp is how many bursts may follow each other when the sender comes late. At low rates they may be more: what makes up for
	// catchUpTime, up to one of the largest bursts. On a busy machine a process comes as late.
	catchUp     = 4
	catchUpTime = 20 * time.Millisecond
)

// pacer is a token bucket whose rate is fixed or follows the receivers' reports.
type pacer struct {
	law
	fixed  bool
	tokens float64 // bytes; may be negative after a burst
	at     time.Time
	actual throughput
}

func newPacer(fixed uint64) *pacer {
	if fixed > 0 {
		return &pacer{fixed: true, law: law{rate: float64(fixed)}}
	}
	return &pacer{law: newLaw()}
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
	p.rest(now)
	if d := now.Sub(p.at); d > 0 {
		most := max(catchUp*float64(p.burst()), min(p.rate/8*catchUpTime.Seconds(), burstMax))
		p.tokens = min(p.tokens+p.rate/8*d.Seconds(), most)
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
	rest  time.Duration // in which there was nothing to send, until quiet
	quiet time.Time     // since when that is so; zero while it is not
}

func (t *throughput) add(now time.Time, n int) {
	if !t.busy {
		*t = throughput{rate: t.rate, busy: true, since: now, rest: t.rested(now)}
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

// idle says that there is nothing to send.
func (t *throughput) idle(now time.Time) {
	if t.quiet.IsZero() {
		t.busy, t.quiet = false, now
	}
}

// rested is for how long there has been nothing to send so far.
func (t *throughput) rested(now time.Time) time.Duration {
	if t.quiet.IsZero() {
		return t.rest
	}
	return t.rest + now.Sub(t.quiet)
}

// sample takes in what one of so many clients told.
func (p *pacer) sample(now time.Time, s sample, clients int) {
	if !p.fixed {
		p.law.sample(now, s, clients, p.trainTime())
	}
}

// trainTime is how long what is sent at once takes at the rate: a queue of that much is no sign of anything.
func (p *pacer) trainTime() time.Duration {
	return time.Duration(float64(p.burst()) * 8 / p.rate * float64(time.Second))
}
