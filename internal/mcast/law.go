package mcast

import (
	"math"
	"slices"
	"time"
)

// The rate law, as long as the operator has not set a rate. What it looks at is the median of what the receivers report, which is what
// keeps one bad receiver from holding the others; of two the worse one, as nobody can say which of them is the exception, but for one that
// gets hardly more than half of what the other does.
//
//   - It starts by doubling, and then holds the queue at the bottleneck at queueTarget: it grows while the queue is shorter and drops
//     below what arrives when it is longer (the idea of LEDBAT, RFC 6817, with the rate of arrival of BBR instead of a window).
//   - Where a queue does not drain though we leave it room, others fill it. As they go by loss only, we do as they do: CUBIC
//     (RFC 9438) for the rate, until the queue is short again (the change of mode is Copa's, Arun and Balakrishnan 2018).
//   - Loss without a queue may be a port that keeps hardly anything waiting, or a bad medium. We slow to what got through and look
//     whether it helps. If it does not the loss has other causes and is left to parity: it is usual from then on, and the rate
//     comes back.
const (
	startRate    = 500e6 // bits a second, before anything is known
	minRate      = 1e6
	maxRate      = 100e9
	ratePeriod   = 10 * time.Millisecond  // between two steps
	queueTarget  = 8 * time.Millisecond   // of what waits at the bottleneck, beyond a train of our own
	drainTime    = 100 * time.Millisecond // in which a queue beyond it is to be gone
	undershoot   = 0.05                   // of what arrives, by which we stay below it until the queue has its length
	leastDrain   = 0.5                    // of what arrives: slower we do not drain
	yielded      = 0.8                    // of what once arrived: where less does and there is a queue, others have the rest
	capacityAge  = 10 * time.Second       // in which what once arrived is forgotten
	companyTime  = 400 * time.Millisecond
	holdPeriod   = 500 * time.Millisecond // how long a ceiling that was found counts
	congested    = 0.02                   // loss beyond the usual that may mean congestion
	mostUsual    = 0.5                    // loss: no medium is as bad, and parity would not help
	mostGrowth   = 0.5                    // in one step, once a limit was seen
	aloneTime    = time.Second            // in which a queue of ours alone drains
	tooLittle    = 1 - slowLoss           // of what the other one of two gets: who gets less is slow
	mostVoters   = 16                     // more clients than that a step need not wait for
	voteAge      = 500 * time.Millisecond // how long it waits for one that has fallen silent
	collapseSpan = 96                     // symbols that must be reported for more than that to count at once
	mostNoise    = 0.08                   // variation of the loss that may be the medium's
	chance       = 3                      // standard deviations
	slack        = 0.95                   // of what got through: the path's queue must drain
	segment      = 1514 * 8               // bits of a packet of the TCP that we do as
)

// law finds the rate.
type law struct {
	rate     float64 // bits a second
	starting bool    // no limit was seen yet
	limited  bool    // the bucket, not the lack of work, held the sender since the last step
	steps    int     // so far
	stepped  time.Time
	samples  []sample  // one of each client
	reports  int       // that they come from
	heard    int       // clients that told of anything since the last step, be it of what was sent before it
	majority time.Time // when there were samples of more than half; zero before that

	course   course        // of the median
	over     time.Time     // since when the queue is longer than it should be; zero while it is not
	patient  time.Duration // how long that may be before others must be the cause
	drained  float64       // rate when it is gone
	relax    time.Time     // when it must be, if nobody tells; zero while it need not
	standing bool          // there is some queue
	passing  float64       // what arrives since
	capacity float64       // the most of that, of late
	speed    float64       // of growth while there is none

	company bool          // others fill the queue
	most    float64       // rate before the last loss among them
	since   time.Time     // then
	rtt     time.Duration // then; the rate is CUBIC's window by this: by that of now, a window would keep its queue standing for ever

	usual    float64 // loss that slowing down does not help against
	noise    float64 // how far the loss is from that, on average
	alarms   int     // steps in a row in which more was lost
	ceiling  float64 // rate that got through when loss came last without a queue, 0 for none
	ceilTime time.Time
	slowed   bool // the last step was down for loss, to see whether that helps
	before   struct {
		rate, loss, ceiling float64
		starting            bool
	}
}

func newLaw() law { return law{rate: startRate, starting: true, speed: 1} }

// hear takes in that a client told of what was sent before the last step only: of the rate since then it has not heard anything.
func (l *law) hear(r *report) {
	if r.heard != l.steps+1 {
		r.heard = l.steps + 1
		l.heard++
	}
}

// sample takes in what one of so many clients told of a stretch that was sent after the last step, when trains took as long as that.
//
// The step waits for all of them, but no longer than twice the time in which more than half told, and in the end for as many reports as they
// are. Those that have told nothing by then are taken for worse than the others, except in the end: a queue is in their way.
func (l *law) sample(now time.Time, s sample, clients int, train time.Duration) {
	l.hear(s.of)
	l.take(s)
	l.reports++
	voters := max(l.heard, min(clients, mostVoters))
	if now.Sub(l.stepped) > voteAge && l.reports >= min(clients, mostVoters) {
		voters = len(l.samples) // some are silent
	}
	if len(l.samples) <= voters/2 {
		return
	}
	if l.majority.IsZero() {
		l.majority = now
	}
	if now.Sub(l.stepped) < ratePeriod || len(l.samples) < voters && now.Sub(l.majority) < l.majority.Sub(l.stepped) {
		return
	}
	if voters == 2 {
		l.pair()
	}
	m := l.median(voters / 2)
	l.course.note(m)
	target := queueTarget + train
	l.relax = time.Time{}

	excess := m.loss - l.usual
	deviation := l.deviation(m.loss, m.symbols)
	standing := m.queue > target/4
	if l.standing = standing && l.standing; m.arrival == 0 {
		// Nothing is known of what passes.
	} else if l.standing {
		l.passing += (l.through(m) - l.passing) / 4
		l.capacity = max(l.passing, l.capacity*(1-float64(now.Sub(l.stepped))/float64(capacityAge)))
	} else if standing {
		l.standing, l.passing = true, l.through(m)
	}
	collapse := m.loss > mostUsual && m.symbols >= collapseSpan
	if excess <= congested+chance*deviation && !collapse {
		l.alarms = 0
	} else {
		l.alarms++
	}
	congestion := l.alarms >= 2 || collapse // once may be a row of losses
	switch {
	case l.company && standing:
		l.share(now, m)
	case l.company:
		l.part(now)
	case m.queue > target:
		l.drain(now, m, target)
	case congestion && standing && !l.starting: // a short one is full, and not of ours alone
		l.join(now, m, min(l.rate, l.passing))
	case l.slowed && !standing && excess > (l.before.loss-l.usual)/2 && m.loss <= mostUsual:
		l.usual, l.rate, l.ceiling, l.starting = m.loss, l.before.rate, l.before.ceiling, l.before.starting
		l.slowed = false
	case congestion:
		l.before.rate, l.before.loss, l.before.ceiling, l.before.starting = l.rate, m.loss, l.ceiling, l.starting
		l.ceiling, l.ceilTime = l.rate*(1-m.loss)/(1-l.usual), now
		if m.arrival > 0 && collapse {
			l.ceiling = min(l.ceiling, l.through(m))
		}
		l.rate = l.ceiling * slack
		l.slowed, l.starting, l.alarms = true, false, 0
	case l.alarms > 0: // let us see
		l.learn(excess, standing)
	default:
		l.slowed = false
		l.learn(excess, standing)
		l.usual += min(excess+deviation, 0) / 8
		l.grow(now, m, target)
	}
	if m.queue <= target {
		l.over = time.Time{}
	}
	l.rate = min(max(l.rate, minRate), maxRate)
	l.samples, l.reports, l.heard, l.majority = l.samples[:0], 0, 0, time.Time{}
	l.limited = false
	l.stepped = now
	l.steps++
}

// take puts a sample with the others. Each client has one, however often it reports: else one that asks again and again had most of them.
func (l *law) take(s sample) {
	for i := range l.samples {
		if old := &l.samples[i]; old.of == s.of {
			lost := old.loss*float64(old.symbols) + s.loss*float64(s.symbols)
			s.symbols += old.symbols
			s.loss = lost / float64(s.symbols)
			*old = s
			return
		}
	}
	l.samples = append(l.samples, s)
}

// deviation is the standard deviation of a loss that is counted over so many symbols, or a larger one where losses come in rows.
func (l *law) deviation(loss float64, symbols int) float64 {
	return max(math.Sqrt(loss*(1-loss)/float64(symbols)), 1.25*l.noise)
}

// learn takes in how much the loss varies by itself: what is lost at a queue does not count.
func (l *law) learn(excess float64, standing bool) {
	if !standing {
		l.noise += (min(math.Abs(excess), mostNoise) - l.noise) / 16
	}
}

// pair leaves out the worse one of two that gets much less than the other: it is slow, and that will be known soon.
func (l *law) pair() {
	a, b := l.samples[0].arrival, l.samples[1].arrival
	switch least := tooLittle * max(a, b); {
	case a > 0 && a < least:
		l.samples = l.samples[1:]
	case b > 0 && b < least:
		l.samples = l.samples[:1]
	}
}

// median is what the median client tells, of each thing for itself, the worse one of two: so many do better. Symbols are those of all.
func (l *law) median(better int) sample {
	var m sample
	var loss, arrival []float64
	var delay, queue []time.Duration
	for _, s := range l.samples {
		m.symbols += s.symbols
		loss = append(loss, s.loss)
		if s.arrival > 0 {
			arrival = append(arrival, s.arrival)
		}
		if s.delay > 0 {
			delay, queue = append(delay, s.delay), append(queue, s.queue)
		}
	}
	slices.Sort(loss)
	m.loss = loss[min(better, len(loss)-1)]
	if n := len(arrival); n > 0 {
		slices.Sort(arrival)
		m.arrival = arrival[max(n-1-better, 0)]
	}
	if n := len(delay); n > 0 {
		slices.Sort(delay)
		slices.Sort(queue)
		m.delay, m.queue = delay[min(better, n-1)], queue[min(better, n-1)]
	}
	return m
}

// grow raises the rate: the less the longer the queue is, and the more the longer there has been none (Copa's velocity).
func (l *law) grow(now time.Time, m sample, target time.Duration) {
	room := float64(target-m.queue) / float64(drainTime)
	if l.standing || !l.limited {
		l.speed = 1
	}
	switch {
	case !l.over.IsZero(): // it has drained
		l.rate = max(l.rate, l.drained)
	case !l.limited:
	case l.starting:
		l.rate *= 2
	case l.ceiling > 0 && l.rate <= 1.5*l.ceiling && now.Sub(l.ceilTime) >= holdPeriod:
		l.rate *= 1.05
	case l.ceiling > 0 && l.rate <= 1.5*l.ceiling:
		l.rate = max(l.rate, min(l.rate*1.05, l.ceiling))
	case m.arrival > 0 && l.standing: // so this much passes
		l.rate = max(l.rate, l.through(m)*(1+room))
		l.ceiling = 0
	default: // the path has more than it had
		l.rate *= 1 + min(room*l.speed, mostGrowth)
		l.ceiling = 0
		l.speed *= 1.5
	}
}

// through is what passes the bottleneck, when there is a queue at it.
func (l *law) through(m sample) float64 {
	if m.arrival == 0 {
		return l.rate * min((1-m.loss)/(1-l.usual), 1)
	}
	return m.arrival / (1 - l.usual)
}

// drain lowers the rate below what arrives, until the queue is as short as it should be or shows that others fill it: it stays, or
// less arrives though it stands.
func (l *law) drain(now time.Time, m sample, target time.Duration) {
	passing := l.through(m)
	if l.over.IsZero() {
		l.over, l.patient, l.most = now, companyTime+2*m.queue, min(passing, l.rate)
	}
	l.starting, l.slowed = false, false
	if now.Sub(l.over) > l.patient || l.passing < yielded*l.capacity {
		l.join(now, m, l.most)
		return
	}
	part := max(1-undershoot-float64(m.queue-target)/float64(drainTime), leastDrain)
	l.rate, l.drained = min(l.rate, passing*part), passing*(1-undershoot)
	l.relax = now.Add(time.Duration(float64(m.queue) * passing / (passing - l.rate)))
}

// rest ends that a queue is drained when it must be gone and nobody has told: reports may be seconds apart where many share processors.
func (l *law) rest(now time.Time) {
	if !l.relax.IsZero() && !now.Before(l.relax) {
		l.rate, l.relax = max(l.rate, l.drained), time.Time{}
	}
}

// join begins to do as those do who fill the queue, from the rate that we had among them.
func (l *law) join(now time.Time, m sample, most float64) {
	l.company, l.most, l.since, l.rtt = true, most, now, m.delay
	l.rate, l.drained = most*beta, l.passing*(1-undershoot)
	l.alarms = 0
}

// part ends that when the queue is short. If it is so soon, as soon as we left it room, there was no company.
func (l *law) part(now time.Time) {
	l.company, l.capacity = false, 0
	if now.Sub(l.since) < aloneTime {
		l.rate = max(l.rate, l.drained)
	}
}

// The constants of CUBIC.
const (
	beta  = 0.7
	scale = 0.4
	reno  = 3 * (1 - beta) / (1 + beta)
)

// share does as CUBIC does: after a loss the rate is 0.7 of what it was, and grows in a cubic of the time back to that and beyond, no
// slower than Reno's would.
func (l *law) share(now time.Time, m sample) {
	if !l.limited {
		l.since = l.since.Add(now.Sub(l.stepped)) // it does not grow by what it does not use
	}
	if m.loss > l.usual+chance*l.deviation(l.usual, m.symbols) {
		if l.since, l.rtt = now, m.delay; l.rate < l.most {
			l.most = l.rate * (1 + beta) / 2 // another grows: it gets room
		} else {
			l.most = l.rate
		}
		l.drained = l.passing * (1 - undershoot)
	}
	rtt := max(l.rtt, time.Millisecond).Seconds()
	t := now.Sub(l.since).Seconds()
	window := l.most * rtt / segment
	k := math.Cbrt(window * (1 - beta) / scale)
	w := scale*math.Pow(t-k, 3) + window
	l.rate = max(w, beta*window+reno*t/rtt) * segment / rtt
}
