package querier

import (
	"net/netip"
	"time"
)

const (
	// DefaultInterval is that of RFC 9776 (section 8.2). Switches forget members that have not answered for 260 s, so MaxInterval is no
	// longer: an answer may be lost.
	DefaultInterval = 125 * time.Second
	MinInterval     = time.Second
	MaxInterval     = DefaultInterval
	// maxResponse is the time in which hosts answer, at random so that they do not do so together (RFC 9776 section 8.3).
	maxResponse = 10 * time.Second
	// defaultRobustness is how many queries in a row get through at least once (RFC 9776 section 8.1).
	defaultRobustness = 2
	// maxSilence bounds how long one query of another keeps us silent: by its own words that could be three days, and switches have long
	// forgotten their members where somebody asks that rarely.
	maxSilence = 10 * time.Minute
)

// timing is what a querier says of itself with each query.
type timing struct {
	interval   time.Duration // between queries
	response   time.Duration // in which hosts answer
	robustness int
}

// newTiming is for a querier that asks at this interval. Answers to one query are to be there before the next.
func newTiming(interval time.Duration) timing {
	return timing{interval, min(maxResponse, interval/2), defaultRobustness}
}

// silence is how long others are silent after a query (RFC 9776 section 8.5).
func (t timing) silence() time.Duration {
	return min(time.Duration(t.robustness)*t.interval+t.response/2, maxSilence)
}

// machine is a querier without its socket: it decides when to ask.
type machine struct {
	timing
	self     netip.Addr
	other    netip.Addr // asks in our place, if valid
	next     time.Time  // to ask, or the end of waiting for the other
	starting int        // queries that follow one another sooner (RFC 9776 section 8.6)
}

func newMachine(now time.Time, self netip.Addr, t timing) machine {
	return machine{timing: t, self: self, next: now, starting: t.robustness}
}

// step says whether a query is to be sent now. Nothing is to be done before next.
func (m *machine) step(now time.Time) bool {
	if now.Before(m.next) {
		return false
	}
	m.other = netip.Addr{}
	m.next = now.Add(m.interval)
	m.starting = max(m.starting-1, 0)
	if m.starting > 0 {
		m.next = now.Add(m.interval / 4) // RFC 9776 section 8.6
	}
	return true
}

// unsent takes in that the query could not be sent. Asking begins anew soon: where the network was down members may have been forgotten.
func (m *machine) unsent(now time.Time) {
	m.next = now.Add(retry)
	m.starting = m.robustness
}

// heard takes in a query of another. Who has the lowest address asks, and others that hear it are silent (RFC 9776 section 6.6.2).
func (m *machine) heard(now time.Time, from netip.Addr, said timing) {
	// Switches ask for themselves without an address (RFC 4541 section 2.1.1).
	if !from.IsValid() || from.IsUnspecified() || !from.Less(m.self) {
		return
	}
	m.other = from
	m.next = now.Add(said.silence())
	m.starting = m.robustness // when it stops, switches are about to forget: then no query may be lost
}
