package mcast

import "time"

// A client that loses much of a stream while most others get most of it does not keep up: the port before it is slower than the
// rate, or broken. It asks again for what it lost, which everybody's link carries, and its own is flooded. Lowering the rate would make all
// others wait for it, so it is told (the slow of an ACK), leaves the group and reads over NBD.
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
	// lossSpan is over how many symbols the loss of a client is averaged.
	lossSpan = 1024
)

// lag is how much of a stream a client loses, to tell whether it keeps up.
type lag struct {
	loss    float64   // moving average
	at      time.Time // of the last report
	since   time.Time // it is too much; zero while it is not
	symbols int       // sent since then
	slow    bool
}

// note takes in what the client told. fine says whether most others keep up.
func (l *lag) note(now time.Time, s sample, fine func() bool) {
	if now.Sub(l.at) > slowTime {
		l.since = time.Time{} // nothing is known of the time between
	}
	l.at = now
	l.loss += (s.loss - l.loss) * min(float64(s.symbols)/lossSpan, 1)
	most := slowLoss
	if l.slow {
		most = fineLoss
	}
	if l.loss <= most || !fine() {
		l.slow, l.since = false, time.Time{}
		return
	}
	if l.since.IsZero() {
		l.since, l.symbols = now, 0
	}
	l.symbols += s.symbols
	l.slow = l.slow || now.Sub(l.since) >= slowTime && l.symbols >= slowSymbols
}

// census is whether most clients that hear a stream keep up with it.
type census struct {
	at   time.Time
	most bool
}

// fine looks at the clients, but not each time that it is asked: there may be thousands.
func (c *census) fine(now time.Time, peers []*peer, handle uint16) bool {
	if now.Sub(c.at) < censusPeriod {
		return c.most
	}
	fine, all := 0, 0
	for _, p := range peers {
		if p == nil || p.company.alone {
			continue
		}
		if r := p.reports[handle]; r != nil && now.Sub(r.lag.at) <= censusAge {
			all++
			if r.lag.loss < fineLoss {
				fine++
			}
		}
	}
	c.at, c.most = now, 2*fine >= all
	return c.most
}

// slow says whether the client was found slow at a stream.
func (p *peer) slow(handle uint16) bool {
	r := p.reports[handle]
	return r != nil && r.lag.slow
}

// unjoin takes in that a client has not heard a stream, or has left it: what it tells when it has joined it, again, is counted anew.
func (p *peer) unjoin(handle uint16) {
	if r := p.reports[handle]; r != nil {
		r.begun, r.lag = false, lag{}
	}
}
