package mcast

import (
	"cmp"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// Step does what became due by what was heard, what was wanted, or by time: finding holes, asking, asking again. The owner
// calls it after a batch of Input or Want, and when the time that Next names has come. It costs nothing while nothing is due.
func (r *Receiver) Step(now time.Time) {
	if !r.stirred && now.Before(r.next) {
		return
	}
	r.stirred = false
	r.endDeaf(now)
	r.endSlow(now)
	r.hello(now)
	r.packets = r.greeter.again(r.packets, now)
	r.unanswered(now)
	r.endBursts(now)
	r.overdue(now)
	r.ask(now)
	r.flush(now)
	r.lookAhead(now)
}

// hello asks the group while no server is known to live, and when there are others.
func (r *Receiver) hello(now time.Time) {
	alive := !r.cfg.Group.IsValid()
	for i := len(r.replicas) - 1; i >= 0; i-- {
		p := r.replicas[i]
		if now.Sub(p.heard) >= replicaAge {
			r.remove(now, p)
			continue
		}
		alive = alive || p.live(now)
	}
	if alive && !r.strangers {
		r.helloAt = now.Add(helloLast)
		return
	}
	if now.Before(r.helloAt) {
		return
	}
	r.helloWait = longer(r.helloWait)
	r.helloed, r.helloAt, r.strangers = now, now.Add(r.helloWait), false
	h := wire.Hello{Nonce: r.asked, Want: wire.HelloID, ID: r.cfg.ID}
	r.packets = append(r.packets, Packet{To: r.cfg.Group, Data: h.Append(nil)})
}

// ask turns wants into requests.
func (r *Receiver) ask(now time.Time) {
	if len(r.replicas) == 0 {
		return
	}
	if len(r.again) > 0 {
		slices.Sort(r.again)
		for _, block := range slices.Compact(r.again) {
			w := r.wants[block]
			if w == nil {
				continue
			}
			if w.state != wantIdle {
				r.stop(w)
				r.stats.Again++
			}
			r.request(now, block, w)
		}
		r.again = r.again[:0]
	}
	r.queues[wire.Demand] = r.askQueue(now, wire.Demand, func() bool { return true })
	r.queues[wire.ReadAhead] = r.askQueue(now, wire.ReadAhead, func() bool { return r.outstanding < r.cfg.Window })
	r.askBulk(now)
}

func (r *Receiver) askQueue(now time.Time, class wire.Priority, room func() bool) []uint32 {
	q := r.queues[class]
	for len(q) > 0 && room() {
		block := q[0]
		w := r.wants[block]
		if w != nil && w.state == wantIdle && !r.request(now, block, w) {
			return q
		}
		q = q[1:]
	}
	return q
}

// A client of a group of more than lateFew, which came while a block was being sent, asks for all of it if it lacks more than one part in
// lateNeed: then others come so soon after it that they would ask for it next.
const (
	lateFew  = 32
	lateNeed = 4
)

// bulkRuns is how many runs that have blocks to copy are looked at for one server: with a few servers each has some among them.
const bulkRuns = 64

// askBulk asks each server for what comes next in its stream, a good part of its share of the window at a time. So none is without work
// while others have too much.
func (r *Receiver) askBulk(now time.Time) {
	if r.bulkLeft == 0 || !r.positioned && now.Before(r.bulkFrom) {
		return
	}
	asked := slices.DeleteFunc(slices.Clone(r.replicas), func(p *replica) bool { return !p.live(now) })
	if len(asked) == 0 {
		asked = r.replicas
	}
	share := r.cfg.Window / len(asked)
	for _, p := range asked {
		if p.outstanding <= share*3/4 {
			r.askBulkOf(now, p, share)
		}
	}
}

// askBulkOf asks p for the blocks that it is to send after those that the group's stream, its own if there is one, is at, until it owes
// us share bytes.
func (r *Receiver) askBulkOf(now time.Time, p *replica, share int) {
	at := int(r.position)
	if p.positioned {
		at = int(p.position)
	}
	if p.positioned || r.positioned {
		at++
	}
	wrapped := false
	for runs := 0; runs < bulkRuns && p.outstanding < share; runs++ {
		at = r.bulk.next(at)
		if at < 0 {
			if wrapped {
				return
			}
			wrapped, at = true, 0
			continue
		}
		end := (at/runBlocks + 1) * runBlocks
		if choose(r.replicas, now, uint32(at), 0) != p {
			at = end
			continue
		}
		for ; at >= 0 && at < end && p.outstanding < share; at = r.bulk.next(at + 1) {
			if !r.askBulkBlock(now, uint32(at)) {
				return
			}
		}
		if at < 0 {
			at = int(r.cfg.Blocks)
		}
	}
}

// askBulkBlock asks for a block that is to be copied, unless that is so already or it is arriving. It says whether there is a server to
// be asked.
func (r *Receiver) askBulkBlock(now time.Time, block uint32) bool {
	if r.wants[block] != nil {
		return true
	}
	if a := r.asms[block]; a != nil && (a.open || !a.repair.IsZero()) {
		return true
	}
	w := &want{block: block, class: wire.Bulk, length: r.cfg.Length(block)}
	r.wants[block] = w
	if !r.request(now, block, w) {
		delete(r.wants, block)
		return false
	}
	return true
}

// request puts a block into the next datagram to the server that should send it. It says whether there is one.
func (r *Receiver) request(now time.Time, block uint32, w *want) bool {
	p := choose(r.replicas, now, block, w.try)
	if p == nil || r.away || r.sparing && now.Before(r.spareAt) {
		r.requeue(block, w)
		return false
	}
	if !p.live(now) && len(p.unanswered) > 0 {
		r.requeue(block, w)
		return false // one question at a time to a server that is silent
	}
	if r.sparing {
		r.spareAt = now.Add(max(r.deaf.pause, deafMin))
	}
	if r.part(now, p, block, w) {
		return true
	}
	need := 0
	if a := r.asms[block]; a != nil {
		if a.open && a.from == p && w.state == wantIdle && p.live(now) && now.Before(p.heard.Add(ackSlack)) && w.asked.IsZero() {
			// It is arriving unasked: what it lacks will be asked for when its burst is over.
			need = -1
		} else {
			need = min(a.missing(), wire.MaxNeed)
			if most := a.layout.perGen(); need >= most || a.late && r.clients > lateFew && need > most/lateNeed {
				need = 0 // who has come later still has nothing of it
			}
		}
	}
	w.from, w.asked, w.passed = p, now, time.Time{}
	if need < 0 {
		r.await(w, wantAcked)
		if w.class == wire.Demand {
			r.Used(block)
		}
		// It comes at once. What one symbol says of the rest may be forged.
		w.horizon, w.due, w.mark = 1<<63, now.Add(p.rtt.timeout()), p.stream.seen
		return true
	}
	r.await(w, wantAsked)
	r.batch[p] = append(r.batch[p], wire.Range{Block: block, Count: 1, Priority: w.class, Need: uint16(need)})
	return true
}

// requeue keeps a want for when there is a server to ask.
func (r *Receiver) requeue(block uint32, w *want) {
	if w.class == wire.Bulk {
		delete(r.wants, block) // its bit in the bulk set stays
		return
	}
	if !slices.Contains(r.queues[w.class], block) {
		r.queues[w.class] = append(r.queues[w.class], block)
	}
}

// flush makes datagrams of the requests and reports that are due.
func (r *Receiver) flush(now time.Time) {
	r.notify(now)
	for _, p := range r.replicas {
		ranges := r.batch[p]
		if len(ranges) == 0 {
			if !now.Before(p.reportAt) {
				if r.toReport(p) {
					r.sendWant(now, p, nil)
				}
				p.reportAt = now.Add(r.reportPeriod())
			}
			continue
		}
		slices.SortFunc(ranges, func(a, b wire.Range) int {
			return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Need, b.Need), cmp.Compare(a.Block, b.Block))
		})
		ranges = merge(ranges)
		for len(ranges) > 0 {
			// What somebody waits for goes alone, so that the answer tells when that comes.
			n := min(len(ranges), wire.MaxWantRanges)
			if i := slices.IndexFunc(ranges[:n], func(g wire.Range) bool { return g.Priority > wire.Demand }); i > 0 {
				n = i
			}
			r.sendWant(now, p, ranges[:n])
			ranges = ranges[n:]
		}
		r.batch[p] = r.batch[p][:0]
	}
}

// reportPeriod is the pause between reports of a client that hears data and asks for nothing: short, so that the server finds its
// rate soon, but all clients together report no more often than a server likes.
func (r *Receiver) reportPeriod() time.Duration {
	return min(max(reportMin, time.Duration(r.clients)*reportEach), reportMax)
}

// toReport says whether enough was heard from p for a report.
func (r *Receiver) toReport(p *replica) bool {
	return p.stream.received-p.reported >= uint64(max(1, (r.clients-reportFew)*reportShare))
}

// merge joins sorted ranges of one block each into longer ones.
func merge(ranges []wire.Range) []wire.Range {
	out := ranges[:1]
	for _, next := range ranges[1:] {
		last := &out[len(out)-1]
		if next.Block == last.Block+uint32(last.Count) && next.Need == last.Need && next.Priority == last.Priority {
			last.Count++
			continue
		}
		out = append(out, next)
	}
	return out
}

func (r *Receiver) sendWant(now time.Time, p *replica, ranges []wire.Range) {
	stamp := r.stamps + uint32(now.Sub(r.start).Microseconds())
	if n := len(p.unanswered); n > 0 && int32(p.unanswered[n-1].stamp-stamp) >= 0 {
		stamp = p.unanswered[n-1].stamp + 1 // several in one microsecond still have names of their own
	}
	w := wire.Want{
		Server: p.id, Handle: p.handle, Epoch: p.epoch, Cookie: p.cookie, Time: stamp,
		Joined: p.stream.joined, Seen: p.stream.seen, Received: uint32(p.stream.received), Drops: r.drops, Age: p.stream.age(now), Ranges: ranges,
	}
	r.packets = append(r.packets, Packet{To: p.addr, Data: w.Append(nil)})
	r.stats.Wants++
	p.reported, p.reportAt = p.stream.received, now.Add(r.reportPeriod())
	q := request{stamp: stamp, at: now}
	for _, g := range ranges {
		if g.Priority == wire.Note {
			continue
		}
		for i := range uint32(g.Count) {
			q.blocks = append(q.blocks, g.Block+i)
			if w := r.wants[g.Block+i]; w != nil {
				w.stamp = stamp
			}
		}
	}
	if len(p.unanswered) == maxUnanswered {
		p.giveUp(p.unanswered[0])
		r.retry(p, p.unanswered[0])
		p.unanswered = p.unanswered[1:]
	}
	p.unanswered = append(p.unanswered, q)
}
