package mcast

import (
	"math"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// unanswered gives up requests whose answer is overdue.
func (r *Receiver) unanswered(now time.Time) {
	for _, p := range r.replicas {
		for len(p.unanswered) > 0 {
			q := p.unanswered[0]
			if now.Sub(q.at) < p.rtt.timeout() {
				break
			}
			p.unanswered = p.unanswered[1:]
			p.giveUp(q)
			r.retry(p, q)
			if !q.at.Before(p.backedOff) {
				p.backedOff = now // once for all that were under way: the answers may only take longer than they did
				p.rtt.backoff++
			}
			if p.heard.Before(q.at) {
				r.doubt(p, p.misses+1, false)
			} else if p.mute++; p.mute >= maxMute && len(r.replicas) > 1 {
				p.mute, p.suspended = 0, now.Add(suspendTime)
				r.passOver(p)
			}
		}
	}
}

// doubt takes in how many requests in a row p has not answered, and whether it owed blocks and was silent.
func (r *Receiver) doubt(p *replica, misses int, suspect bool) {
	was := p.stalled()
	p.misses, p.suspect = max(p.misses, misses), p.suspect || suspect
	if !was && p.stalled() {
		r.passOver(p)
	}
}

// passOver asks again for all that was asked of a replica that has just been found silent or barren: each of its requests would
// else wait for its own time to run out.
func (r *Receiver) passOver(p *replica) {
	for _, q := range p.unanswered {
		r.retry(p, q)
	}
	p.unanswered = nil
	for block, w := range r.wants {
		if w.state == wantAcked && w.from == p {
			r.again = append(r.again, block)
		}
	}
}

// endBursts finds the blocks whose burst is over and that lack symbols, and sets the time to ask for them.
func (r *Receiver) endBursts(now time.Time) {
	r.open = slices.DeleteFunc(r.open, func(a *assembly) bool {
		if !a.open {
			return true
		}
		if a.from.stream.seen < a.end {
			return false
		}
		a.open = false
		// What nobody wants is repaired when somebody does.
		if r.asms[a.block] == a && (r.wants[a.block] != nil || r.bulk.has(int(a.block))) {
			a.repair = now.Add(reorderDelay + r.spread())
			if !a.hole {
				a.hole = true
				r.holes = append(r.holes, a)
			}
		}
		return true
	})
	r.holes = slices.DeleteFunc(r.holes, func(a *assembly) bool {
		if now.Before(a.repair) {
			return false
		}
		a.hole = false
		if a.repair.IsZero() {
			return true // more of it came, or all
		}
		a.repair = time.Time{}
		switch {
		case r.wants[a.block] != nil:
			r.again = append(r.again, a.block)
		case r.bulk.has(int(a.block)) && r.outstanding < 2*r.cfg.Window: // else askBulk comes to it
			r.wants[a.block] = &want{block: a.block, class: wire.Bulk, length: a.layout.length}
			r.again = append(r.again, a.block)
		}
		return true
	})
}

// spread is a random pause that grows with the number of clients that may be about to ask for the same.
func (r *Receiver) spread() time.Duration {
	n := time.Duration(0)
	for c := r.clients; c > 1; c >>= 1 {
		n++
	}
	if n == 0 {
		return 0
	}
	return time.Duration(r.cfg.Rand.Int64N(int64(n * repairSpread)))
}

// overdue finds the wants that their server has passed over: its stream is beyond where they should have come, or it is late with
// them, or silent. They are asked for again: if the server lives it says so, and that costs one small datagram.
func (r *Receiver) overdue(now time.Time) {
	for _, w := range r.awaited {
		if w.state != wantAcked {
			continue
		}
		a := r.asms[w.block]
		late, silent := !now.Before(w.due), !now.Before(w.silentAt())
		if a != nil && (a.open || !a.repair.IsZero()) && a.from == w.from && !late && !silent {
			w.passed = time.Time{}
			continue // it is arriving, or about to be asked for
		}
		if silent {
			r.doubt(w.from, 0, true)
		}
		passed := w.from.stream.joined && w.from.stream.seen >= w.horizon
		switch {
		case !passed:
			w.passed = time.Time{} // a forged number had led us astray
		case w.passed.IsZero():
			w.passed = now
		}
		if late && !passed && w.from.stream.seen > w.mark {
			// The stream moves, so its server only takes longer than it thought.
			w.mark, w.due = w.from.stream.seen, now.Add(w.from.rtt.estimate()+w.patience())
			late = false
		}
		if !late && !silent && (!passed || now.Sub(w.passed) < reorderDelay) {
			continue
		}
		if a != nil && a.from == w.from && !a.heard.Before(w.asked) {
			w.barren = 0
		} else {
			w.barren++
			r.listen(now, w)
		}
		if late || w.barren > 0 && w.barren%maxBarren == 0 {
			// While anything comes it is not the server that is at fault.
			w.from.barren = w.from.barren || w.from.fed.Before(w.asked)
			w.try++
		}
		r.again = append(r.again, w.block)
	}
	for _, p := range r.replicas {
		if p.barren {
			p.barren = false
			p.fruitless++ // once for all that was asked together
		}
		if p.fruitless >= fruitless && len(r.replicas) > 1 {
			p.fruitless = 0
			p.suspended = now.Add(suspendTime)
			r.passOver(p)
		}
	}
}

// Next returns when Step has something to do, if nothing else happens before.
func (r *Receiver) Next(now time.Time) time.Time {
	if r.stirred {
		return now
	}
	return r.next
}

// lookAhead sets when Step has something to do next: by time, and by how far the replicas' streams get.
func (r *Receiver) lookAhead(now time.Time) {
	r.next = r.greeter.next(r.helloAt)
	sooner := func(t time.Time) {
		if t.Before(r.next) {
			r.next = t
		}
	}
	if len(r.notes) > 0 && len(r.replicas) > 0 {
		sooner(r.notesAt)
	}
	if r.deaf.on && r.deafOver {
		sooner(r.deaf.end)
	}
	if r.away && r.tooSlow.on {
		sooner(r.tooSlow.end)
	}
	for _, p := range r.replicas {
		p.watch = math.MaxUint64
		if len(p.unanswered) > 0 {
			sooner(p.unanswered[0].at.Add(p.rtt.timeout()))
		}
		if r.toReport(p) {
			sooner(p.reportAt)
		}
		if now.Before(p.suspended) {
			sooner(p.suspended)
		}
		sooner(p.heard.Add(replicaAge))
	}
	for _, a := range r.open {
		a.from.watch = min(a.from.watch, a.end)
	}
	for _, a := range r.holes {
		if !a.repair.IsZero() {
			sooner(a.repair)
		}
	}
	for _, w := range r.awaited {
		if w.state != wantAcked {
			continue
		}
		sooner(w.due)
		sooner(w.silentAt())
		switch {
		case !w.passed.IsZero():
			sooner(w.passed.Add(reorderDelay))
		case w.horizon > w.from.stream.seen:
			w.from.watch = min(w.from.watch, w.horizon)
		}
	}
	if r.bulkLeft > 0 && !r.positioned && now.Before(r.bulkFrom) {
		sooner(r.bulkFrom)
	}
}
