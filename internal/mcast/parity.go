package mcast

import (
	"math"
	"slices"
	"time"
)

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
