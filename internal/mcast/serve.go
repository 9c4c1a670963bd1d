package mcast

import (
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

func (s *Sender) handleWant(now, arrived time.Time, from netip.AddrPort, b []byte) {
	w := &s.want
	if err := wire.ParseWant(b, w); err != nil {
		s.stats.Malformed++
		return
	}
	if w.Server != s.cfg.Server {
		return // sent to a server that had this address before
	}
	deny := func(r wire.Reason) {
		s.stats.Denied++
		d := wire.Deny{
			Server: s.cfg.Server, Handle: w.Handle, Epoch: s.cfg.Epoch,
			Time: w.Time, Reason: r, Cookie: s.jar.cookie(from),
		}
		s.send(from, d.Append(nil))
	}
	if w.Epoch != s.cfg.Epoch || w.Cookie != s.jar.cookie(from) {
		deny(wire.DenyCookie)
		return
	}
	e := s.exports[w.Handle]
	switch {
	case e == nil:
		deny(wire.DenyImage)
		return
	case s.stateOf(e) == wire.ImageWithdrawn:
		deny(wire.DenyWithdrawn)
		return
	}
	for _, r := range w.Ranges {
		if uint64(r.Block)+uint64(r.Count) > uint64(e.Blocks) {
			deny(wire.DenyBlock)
			return
		}
	}
	p := s.peer(now, from)
	if p == nil {
		return
	}
	s.stats.Wants++
	p.ration.credit(now, w, e.seq)
	if w.Joined {
		s.hear(now, arrived, p, e, w)
	} else {
		p.unjoin(w.Handle)
	}
	ack := wire.Ack{
		Server: s.cfg.Server, Handle: w.Handle, Epoch: s.cfg.Epoch,
		Time: w.Time, Seq: e.seq, Horizon: min(w.Seen, e.seq), Clients: s.clients(),
	}
	last := wire.Demand // class of what will be sent last
	left := maxQueued   // blocks: no datagram keeps the server busy with more
	asks, refused := false, false
	s.room = maxJobs - s.jobs()
	s.holds = false
	for _, r := range w.Ranges {
		n := min(int(r.Count), left)
		left -= n
		for i := range uint32(n) {
			if r.Priority == wire.Note || r.Need == 0 {
				e.uses.wanted(now, p, r.Block+i, r.Priority, r.Priority == wire.Note && r.Need == wire.NoteOverheard)
			}
			if r.Priority != wire.Note {
				refused = !s.request(now, p, e, r.Block+i, r, &ack) || refused
			}
		}
		if r.Priority != wire.Note {
			last, asks = max(last, r.Priority), true
		}
	}
	if !asks {
		last = wire.Bulk
	}
	ack.Alone = p.company.alone && s.sched.live > 1
	ack.Slow = p.slow(w.Handle)
	if ack.InFlight > 0 && len(e.wanted) == 0 && e.tailAt.IsZero() {
		e.tailAt = now // it was away for so long that it has missed the last tail mark, and waits for what has gone by
	}
	switch {
	case ack.Queued > 0:
		n := e.ahead(last)
		if last < wire.Bulk && s.hasReady() {
			// What is less urgent goes out while it is read from the disk: the rest of one block, and one more. But a horizon that the stream
			// does not come to, where nothing follows, hides that all of a repair was lost.
			n = min(n+2*e.layout(0).k, e.ahead(wire.Bulk))
		}
		if s.holds {
			n += int(s.pace.expected() * repeatPause.Seconds() / 8 / float64(s.cfg.MaxPayload+frameOverhead))
		}
		ack.Horizon = e.seq + uint64(n)
	case refused && ack.InFlight == 0:
		ack.Horizon = s.refusedUntil(e)
	}
	ack.Backlog = s.backlog(last)
	s.send(from, ack.Append(nil))
	s.fill()
}

// peer returns the state of the client at an address that has proved itself.
func (s *Sender) peer(now time.Time, from netip.AddrPort) *peer {
	p := s.peers[from]
	if p == nil {
		if len(s.peers) >= maxPeers && !s.makeRoom(now) {
			return nil
		}
		p = &peer{addr: from, reports: map[uint16]*report{}, ration: newRation(now)}
		s.peers[from] = p
		s.sched.add(p)
	}
	p.heard = now
	return p
}

// makeRoom forgets the client that has been silent longest, if that is a while. So one who has thousands of addresses keeps others out
// only as long as he speaks from all of them.
func (s *Sender) makeRoom(now time.Time) bool {
	if now.Before(s.roomAt) {
		return false
	}
	var quietest *peer
	for _, p := range s.sched.peers {
		if p != nil && (quietest == nil || p.heard.Before(quietest.heard)) {
			quietest = p
		}
	}
	if s.roomAt = quietest.heard.Add(quietAge); now.Before(s.roomAt) {
		return false
	}
	s.forget(quietest)
	s.roomAt = now.Add(roomPeriod)
	return true
}

// hear takes in what a client reports of a stream.
func (s *Sender) hear(now, arrived time.Time, p *peer, e *export, w *wire.Want) {
	if w.Seen > e.seq {
		return // nothing that was sent has this number
	}
	r := p.reports[w.Handle]
	if r == nil {
		r = &report{}
		p.reports[w.Handle] = r
	}
	if sample, ok := r.update(now, arrived, w, e.departed(w.Seen), s.pace.actual.rested(now)); ok {
		median := &s.pace.course
		others := func() census {
			e.census.look(now, s.sched.peers, w.Handle, median)
			return e.census
		}
		if p.company.alone {
			median = nil
		}
		r.lag.note(now, sample, median, others)
		sample.arrival *= float64(e.layout(0).size+wire.DataHeaderSize+frameOverhead) * 8
		switch from := e.pacedFrom(s.pace); {
		case r.lag.slow.on:
		case sample.after >= from: // else it speaks of another rate: what waits in the path's queues was sent before
			s.pace.sample(now, sample, s.voters(now))
		case w.Seen <= from:
			s.pace.hear(r)
		}
	}
}

// voters is how many have a say in the rate: who keeps up and has told of something lately. Of many it is not known exactly.
func (s *Sender) voters(now time.Time) int {
	if s.sched.live > mostVoters {
		return mostVoters
	}
	n := 0
	for _, p := range s.sched.peers {
		if p == nil {
			continue
		}
		for _, r := range p.reports {
			if !r.lag.slow.on && now.Sub(r.at) <= voteAge {
				n++
			}
		}
	}
	return n
}

// request takes in that p wants a block, and counts in ack what becomes of it. It returns false if it is more than p's ration.
func (s *Sender) request(now time.Time, p *peer, e *export, block uint32, r wire.Range, ack *wire.Ack) bool {
	w, last := &s.want, e.sent[block]
	crossed := w.Joined && w.Seen < last.end
	if crossed {
		r.Need = uint16(last.short(int(r.Need), w.Seen, e.layout(block).gens))
	}
	if j := e.wanted[block]; j != nil && (j.state == jobSending || !crossed || r.Need > 0) {
		s.stats.Merged++
		if j.state == jobSending {
			ack.InFlight++
			ack.Horizon = max(ack.Horizon, last.end)
			return true
		}
		ack.Queued++ // as it is, if it may not become more
		ok := s.afford(p, e, block, r.Priority, e.symbols(block, r.Need)-j.symbolsLeft())
		if ok {
			s.merge(j, p, e, r)
			s.holds = s.holds || j.state == jobHeld
		}
		return ok
	}
	if crossed && r.Need == 0 {
		s.stats.Suppressed++
		ack.InFlight++
		ack.Horizon = max(ack.Horizon, last.end)
		return true
	}
	if p.queued >= maxQueued || s.room <= 0 && p.queued >= fewQueued {
		return true
	}
	if !s.afford(p, e, block, r.Priority, e.symbols(block, r.Need)) {
		return false
	}
	s.room--
	j := &job{key: jobKey{e.Offer.Handle, block}, export: e, class: r.Priority}
	j.unasked = max(e.parity.level, last.again(e.layout(block).perGen()))
	j.widen(r.Need)
	e.parity.asked(block, int(r.Need))
	e.wanted[block] = j
	e.queued[j.class] += j.symbolsLeft()
	s.sched.enqueue(j, p)
	s.hold(j, last.whole.Add(repeatPause), now)
	ack.Queued++
	return true
}

// jobs is how many blocks are queued or on their way out.
func (s *Sender) jobs() int {
	n := 0
	for _, e := range s.exports {
		n += len(e.wanted)
	}
	return n
}

// merge adds p's request to a job that has not begun to be sent.
func (s *Sender) merge(j *job, p *peer, e *export, r wire.Range) {
	e.queued[j.class] -= j.symbolsLeft()
	j.widen(r.Need)
	e.parity.asked(j.key.block, int(r.Need))
	urgent := r.Priority < j.class
	if urgent {
		s.promote(j, r.Priority)
	}
	e.queued[j.class] += j.symbolsLeft()
	if j.waits() && (urgent || !j.wanters.has(p.slot)) {
		s.sched.enqueue(j, p)
	}
}

// promote makes a job more urgent. One that is loaded already leaves the queue of its class for the other.
func (s *Sender) promote(j *job, class wire.Priority) {
	if j.state == jobReady {
		s.ready[j.class] = slices.DeleteFunc(s.ready[j.class], func(x *job) bool { return x == j })
		s.ready[class] = append(s.ready[class], j)
	}
	j.class = class
}

// backlog is how long what is queued up to a class takes to send, in milliseconds.
func (s *Sender) backlog(class wire.Priority) uint32 {
	bytes := 0
	for _, handle := range s.handles {
		bytes += s.exports[handle].ahead(class) * (s.cfg.MaxPayload + frameOverhead)
	}
	return uint32(min(float64(bytes)*8*1000/s.pace.expected(), 1<<31))
}

// fill starts loading while there is room.
func (s *Sender) fill() {
	for s.ahead < 2*loadAhead {
		last := wire.Bulk
		if s.ahead >= loadAhead || s.ahead >= 2 && s.aheadBytes >= loadAheadBytes {
			last = wire.Demand // it does not wait for a place
		}
		j := s.sched.pick(last)
		if j == nil {
			return
		}
		j.state = jobLoading
		s.ahead++
		s.aheadBytes += j.export.Length(j.key.block)
		s.loads = append(s.loads, Load{Handle: j.key.handle, Block: j.key.block})
	}
}

// Loaded brings a block that Loads asked for, or says that it could not be read: then the clients that wait for it ask
// another replica, or again. The Sender owns data until it calls SenderConfig.Release.
func (s *Sender) Loaded(l Load, data []byte, err error) {
	e := s.exports[l.Handle]
	j := e.wanted[l.Block]
	if j == nil || j.state != jobLoading {
		s.release(data)
		return
	}
	if err != nil {
		s.release(data)
		s.abandon(j)
		return
	}
	j.data = data
	j.state = jobReady
	s.ready[j.class] = append(s.ready[j.class], j)
}

func (s *Sender) release(data []byte) {
	if data != nil && s.cfg.Release != nil {
		s.cfg.Release(data)
	}
}

// abandon forgets a job that will not be sent.
func (s *Sender) abandon(j *job) {
	j.export.queued[j.class] -= j.symbolsLeft()
	if j.waits() {
		s.sched.charge(j)
		j.state = jobSending // so that no queue offers it
	} else {
		s.unload(j)
	}
	delete(j.export.wanted, j.key.block)
	if j == s.sending {
		s.sending = nil
	}
	for class, q := range s.ready {
		for i := range q {
			if q[i] == j {
				s.ready[class] = append(q[:i], q[i+1:]...)
				break
			}
		}
	}
	s.release(j.data)
	j.data = nil
}

func (s *Sender) unload(j *job) {
	s.ahead--
	s.aheadBytes -= j.export.Length(j.key.block)
}
