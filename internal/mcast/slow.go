package mcast

import "time"

// A client that loses much of a stream while most others get most of it does not keep up: the port before it is slower than the
// rate, or broken. It asks again for what it lost, which everybody's link carries, and its own is flooded. Lowering the rate would make all
// others wait for it, so it is told (the slow of an ACK), leaves the group and reads over NBD.
//
// A client that loses little though its port is full, when those of most others are not, is told so too. The group may share that port with TCP,
// which yields to a rate that does not yield to it. Over NBD the client shares it as TCP does.
//
// Who is alone, see company, is not judged: it reads over NBD what it waits for, and that may be what fills its link.
//
// A client that loses less stays. Parity and repairs cope with that, and it may be on a bad medium, where TCP, which NBD needs, does worse.

const (
	// slowLoss is more than a client may lose that keeps up, and fineLoss less than those lose that show that the others do. A client that
	// is the only one to ask loses a half at least if its port is too slow, since it is sent twice what it receives: see rationEach.
	slowLoss = 0.4
	fineLoss = 0.25
	// slowTime is for how long a client must lose that much, and slowSymbols how many symbols must have been sent meanwhile: a pause of its
	// process, or of a radio, is shorter.
	slowTime    = time.Second
	slowSymbols = 512
	// censusPeriod is the time between two looks at how the others do, and censusAge how long what a client told of that counts.
	censusPeriod = 100 * time.Millisecond
	censusAge    = 2 * time.Second
	// lossSpan is over how many symbols the loss of a client is averaged, and courseMemory over how many steps of the rate the median's.
	lossSpan     = 1024
	courseMemory = 16
	// mostCrowded is how many are told at once that their ports are full, and a third of all at most: what they read over NBD takes the
	// server's port from the others. Where it is more, ports are slower than the rate rather than shared, and repairs cost less.
	mostCrowded = 16
)

// lag is how a client does at a stream, to tell whether it keeps up.
type lag struct {
	loss    float64       // moving average
	queue   time.Duration // the same, beyond the least of late
	at      time.Time     // of the last report
	apart   time.Time     // when it was not judged last
	slow    trouble       // it loses much
	crowded trouble       // its port is full, though it does not lose much
}

// trouble is something that is held against a client when it has lasted.
type trouble struct {
	on      bool
	since   time.Time // zero while there is none
	symbols int       // sent since then
}

// note takes in whether it is there while so many symbols are sent.
func (t *trouble) note(now time.Time, there bool, symbols int) {
	if !there {
		*t = trouble{}
		return
	}
	if t.since.IsZero() {
		t.since, t.symbols = now, 0
	}
	t.symbols += symbols
	t.on = t.on || now.Sub(t.since) >= slowTime && t.symbols >= slowSymbols
}

// note takes in what the client told. Others is how they do, and median how the median client does; nil if the client is not judged.
func (l *lag) note(now time.Time, s sample, median *course, others func() census) {
	if now.Sub(l.at) > slowTime {
		l.slow.since, l.crowded.since = time.Time{}, time.Time{} // nothing is known of the time between
	}
	l.at = now
	part := min(float64(s.symbols)/lossSpan, 1)
	l.loss += (s.loss - l.loss) * part
	if s.delay > 0 {
		l.queue += time.Duration(float64(s.wait-l.queue) * part)
	}
	most := slowLoss
	if l.slow.on {
		most = fineLoss
	}
	l.slow.note(now, median != nil && l.loss > most && others().fine, s.symbols)
	if median == nil {
		l.apart = now
	}
	pressed := s.arrival > 0 && now.Sub(l.apart) > slowMin // a server that rests leaves room to others, and what it read over NBD may still come
	l.crowded.note(now, median != nil && pressed && l.full(median) && others().few, s.symbols)
}

// full says whether the client's port is full when that of the median client is not.
func (l *lag) full(median *course) bool {
	return median.known &&
		(l.queue > median.queue+queueTarget || l.queue > queueTarget/4 && l.loss > median.loss+congested)
}

// course is how the median client has been doing of late, as the law of the rate sees it.
type course struct {
	known bool
	loss  float64
	queue time.Duration
}

// note takes in what it tells.
func (c *course) note(m sample) {
	c.known = true
	c.loss += (m.loss - c.loss) / courseMemory
	c.queue += (m.queue - c.queue) / courseMemory
}

// census is how the clients that hear a stream do.
type census struct {
	at   time.Time
	fine bool // most keep up with it
	few  bool // no more than a few have a full port
}

// look looks at the clients, but not each time that it is asked: there may be thousands.
func (c *census) look(now time.Time, peers []*peer, handle uint16, median *course) {
	if now.Sub(c.at) < censusPeriod {
		return
	}
	fine, full, all := 0, 0, 0
	for _, p := range peers {
		if p == nil || p.company.alone {
			continue
		}
		if r := p.reports[handle]; r != nil && now.Sub(r.lag.at) <= censusAge {
			all++
			if r.lag.loss < fineLoss {
				fine++
			}
			if r.lag.full(median) {
				full++
			}
		}
	}
	*c = census{at: now, fine: 2*fine >= all, few: full <= min(all/3, mostCrowded)}
}

// slow says whether the client was found slow at a stream, or its port full.
func (p *peer) slow(handle uint16) bool {
	r := p.reports[handle]
	return r != nil && (r.lag.slow.on || r.lag.crowded.on)
}

// unjoin takes in that a client has not heard a stream, or has left it: what it tells when it has joined it, again, is counted anew.
func (p *peer) unjoin(handle uint16) {
	if r := p.reports[handle]; r != nil {
		r.begun, r.lag = false, lag{}
	}
}
