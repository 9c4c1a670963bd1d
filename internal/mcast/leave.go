package mcast

import (
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// slowMin is for how long a Receiver for which the group is too fast leaves it. It is longer each time that the group is still too fast when
// it comes back: see retreat.
const slowMin = 5 * time.Second

// maxGivenUp bounds the requests whose answers may be late, and givenUpEach is the time between two of them: they are those of a second, longer
// than any port's queue.
const (
	maxGivenUp  = 64
	givenUpEach = 20 * time.Millisecond
)

// Slow says whether a server has said that we lose much of what it sends, while most others get most of it: this host's link is
// slower than the group. It ends by itself after a while if the owner has left the group, and else when the server says so no more.
func (r *Receiver) Slow() bool { return r.tooSlow.on }

// pace takes in whether a server says that it is too fast for us.
func (r *Receiver) pace(now time.Time, p *replica, slow bool) {
	p.slow = slow
	switch {
	case r.away:
	case slow && !r.tooSlow.on:
		r.tooSlow.begin(now, slowMin)
	case r.tooSlow.on && !slices.ContainsFunc(r.replicas, func(p *replica) bool { return p.slow }):
		r.tooSlow.finish(now)
	}
}

// giveUp remembers a request that was not answered in time, but not each of many.
func (p *replica) giveUp(q request) {
	n := len(p.givenUp)
	if n > 0 && q.at.Sub(p.givenUp[n-1].at) < givenUpEach {
		return
	}
	if n == maxGivenUp {
		p.givenUp = p.givenUp[1:]
	}
	p.givenUp = append(p.givenUp, request{stamp: q.stamp, at: q.at})
}

// late takes in an answer to a request that was given up. At a link that is too slow, with a long queue before it, all are late.
func (r *Receiver) late(now time.Time, p *replica, a *wire.Ack) {
	if i := slices.IndexFunc(p.givenUp, func(q request) bool { return q.stamp == a.Time }); i >= 0 {
		p.givenUp = slices.Delete(p.givenUp, i, i+1)
		r.pace(now, p, a.Slow)
	}
}

// endSlow ends that the Receiver is slow, so that its owner tries the group again.
func (r *Receiver) endSlow(now time.Time) {
	if r.away && r.tooSlow.on && !now.Before(r.tooSlow.end) {
		r.tooSlow.finish(now)
	}
}

// Leave says that the owner hears the data groups no more, or does again. While it does not nothing is asked of the group: the owner gets
// what is wanted by other means, see Lacking.
func (r *Receiver) Leave(away bool) {
	if r.away == away {
		return
	}
	r.away, r.stirred = away, true
	if away {
		return
	}
	for _, p := range r.replicas {
		// What went by meanwhile is not lost.
		p.stream, p.reported, p.slow, p.givenUp = stream{}, 0, false, nil
	}
	for _, a := range r.asms {
		a.open = false
	}
	r.askAnew()
}
