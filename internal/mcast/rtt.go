package mcast

import "time"

// The retransmission timeout's bounds. The least is far below TCP's (RFC 6298) because an answer never waits behind data, and asking
// again costs one small datagram.
const (
	firstRTO = 100 * time.Millisecond
	minRTO   = 20 * time.Millisecond
	maxRTO   = time.Second
)

// rtt estimates a round trip and its variation (RFC 6298).
type rtt struct {
	smooth, variation time.Duration
	backoff           int
}

func (r *rtt) sample(d time.Duration) {
	if r.smooth == 0 {
		r.smooth, r.variation = d, d/2
	} else {
		diff := r.smooth - d
		if diff < 0 {
			diff = -diff
		}
		r.variation += (diff - r.variation) / 4
		r.smooth += (d - r.smooth) / 8
	}
	r.backoff = 0
}

// estimate is how long an answer takes at most, as a rule.
func (r *rtt) estimate() time.Duration {
	if r.smooth == 0 {
		return firstRTO
	}
	return min(max(r.smooth+4*r.variation, minRTO), maxRTO)
}

// timeout is how long to wait for an answer: longer each time that none came.
func (r *rtt) timeout() time.Duration { return min(r.estimate()<<min(r.backoff, 6), maxRTO) }
