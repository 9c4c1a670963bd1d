package mcast

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// Input takes one datagram that arrives now. It does not keep b. After a batch of them the owner calls Step.
func (r *Receiver) Input(now time.Time, from netip.AddrPort, b []byte) {
	r.InputLate(now, now, from, b)
}

// InputLate is Input for a datagram that arrived before now and has waited to be read: that is no queue of the network's.
func (r *Receiver) InputLate(now, arrived time.Time, from netip.AddrPort, b []byte) {
	t, err := wire.TypeOf(b)
	if err == nil {
		// Most symbols change nothing that Step looks at, nor do the other clients' questions to the group.
		r.stirred = r.stirred || t != wire.TypeData && t != wire.TypeHello
		switch t {
		case wire.TypeData:
			err = r.data(now, arrived, from, b)
		case wire.TypeAck:
			err = r.ack(now, from, b)
		case wire.TypeDeny:
			err = r.deny(now, from, b)
		case wire.TypeWelcome:
			err = r.welcome(now, from, b)
		case wire.TypeAnnounce:
			err = r.announce(now, from, b)
		}
	}
	if err != nil {
		r.stats.Malformed++
	}
}

// replica returns the server that a datagram came from, if it is one of ours and the address is its own.
func (r *Receiver) replica(from netip.AddrPort, id uint16, epoch uint32) *replica {
	if p := r.stream(from.Addr(), id, epoch); p != nil && p.addr == from {
		return p
	}
	return nil
}

// stream returns the server whose data comes from an address. The port may be any: a server may send data by a socket of its own.
func (r *Receiver) stream(from netip.Addr, id uint16, epoch uint32) *replica {
	for _, p := range r.replicas {
		if p.id == id && p.epoch == epoch && p.addr.Addr() == from {
			return p
		}
	}
	return nil
}

func (p *replica) hear(now time.Time) {
	p.heard = now
	p.misses, p.suspect = 0, false
}

func (r *Receiver) ack(now time.Time, from netip.AddrPort, b []byte) error {
	a, err := wire.ParseAck(b)
	if err != nil {
		return err
	}
	p := r.replica(from, a.Server, a.Epoch)
	if p == nil {
		return nil
	}
	p.hear(now)
	p.alone = a.Alone
	i := slices.IndexFunc(p.unanswered, func(q request) bool { return q.stamp == a.Time })
	if i < 0 {
		r.late(now, p, &a)
		return nil
	}
	q := p.unanswered[i]
	p.unanswered = slices.Delete(p.unanswered, i, i+1)
	p.mute = 0
	p.rtt.sample(now.Sub(q.at))
	r.clients = int(a.Clients)
	p.backlog = min(time.Duration(a.Backlog)*time.Millisecond, maxBacklog)
	r.pace(now, p, a.Slow)
	if a.Backlog == 0 {
		r.bulkFrom = now // nothing to listen for
	}
	if p.stream.seen > a.Seq+maxOvertake {
		p.stream.seen, p.stream.arrived = a.Seq, time.Time{} // a forged symbol had led it astray
	}
	if a.Queued == 0 && a.InFlight == 0 && len(q.blocks) > 0 {
		p.fruitless++ // its queue is full, or it is not what it says it is
	}
	due := now.Add(p.backlog + p.backlog/2 + 2*p.rtt.timeout())
	for _, block := range q.blocks {
		if w := r.wants[block]; w != nil && w.state == wantAsked && w.stamp == q.stamp && w.from == p {
			w.state, w.horizon, w.due, w.mark = wantAcked, a.Horizon, due.Add(w.patience()), p.stream.seen
		}
	}
	return nil
}

func (r *Receiver) deny(now time.Time, from netip.AddrPort, b []byte) error {
	d, err := wire.ParseDeny(b)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(r.replicas, func(p *replica) bool { return p.id == d.Server && p.addr == from })
	if i < 0 {
		return nil
	}
	p := r.replicas[i]
	j := slices.IndexFunc(p.unanswered, func(q request) bool { return q.stamp == d.Time })
	if j < 0 {
		return nil // an answer to nothing that we asked
	}
	q := p.unanswered[j]
	p.unanswered = slices.Delete(p.unanswered, j, j+1)
	p.mute = 0
	p.hear(now)
	switch d.Reason {
	case wire.DenyCookie, wire.DenyImage:
		// It restarted, or we moved: its handles may be others now. Ask it what it has.
		r.greet(now, from, d.Cookie)
		p.suspended = now.Add(p.rtt.timeout())
	case wire.DenyWithdrawn:
		p.withdrawn = true
	default:
		p.suspended = now.Add(suspendTime)
	}
	r.retry(p, q)
	return nil
}

// retry asks again for the blocks of a request that p did not grant.
func (r *Receiver) retry(p *replica, q request) {
	for _, block := range q.blocks {
		if w := r.wants[block]; w != nil && w.state != wantIdle && w.stamp == q.stamp && w.from == p {
			r.again = append(r.again, block)
		}
	}
}

func (r *Receiver) announce(now time.Time, from netip.AddrPort, b []byte) error {
	a, err := wire.ParseAnnounce(b)
	if err != nil {
		return err
	}
	state, ours := announced(&a, r.cfg.ID)
	p := r.replica(from, a.Server, a.Epoch)
	switch {
	case p == nil && ours && !a.Leaving && state == wire.ImageServed:
		r.greet(now, from, 0)
	case p == nil:
	case a.Leaving:
		// Not forgotten: if it was not the server that said so, the next symbol proves it.
		r.doubt(p, stallMisses, false)
	default:
		p.hear(now)
		p.rate = a.Rate
		p.backlog = min(time.Duration(a.Backlog)*time.Millisecond, maxBacklog)
		r.clients = int(a.Clients)
		switch {
		case ours && state == wire.ImageServed:
			p.withdrawn = false
		case ours:
			// Asked, it denies; nobody else can say that in its name.
			r.doubt(p, stallMisses, false)
		}
	}
	return nil
}

// greet asks a server what it has.
func (r *Receiver) greet(now time.Time, to netip.AddrPort, cookie uint64) {
	r.packets = r.greeter.ask(r.packets, now, to, cookie)
}

func (r *Receiver) welcome(now time.Time, from netip.AddrPort, b []byte) error {
	w, err := wire.ParseWelcome(b)
	if err != nil {
		return err
	}
	private := w.Nonce == r.greeter.nonce(from)
	if p := r.replica(from, w.Server, w.Epoch); !private && p != nil && p.live(now) && p.cookie == w.Cookie {
		return nil // we asked for the others
	}
	if w.Nonce == r.asked || w.Parts == 0 && private {
		r.greet(now, from, w.Cookie) // whatever it offers, it is to say so to us alone
		return nil
	}
	if !private {
		return nil
	}
	r.greeter.answered(from)
	for i := range w.Offers {
		o := &w.Offers[i]
		if d, err := Descriptor(o); err != nil || d.ID() != r.cfg.ID {
			continue
		}
		r.adopt(now, from, &w, o)
	}
	return nil
}

// stranger takes in that the group has a server that we do not know, and have not just asked for. Until we do we ask others for what the
// group asks of it, and the group gets it twice. What it is will be announced within a second.
func (r *Receiver) stranger(now time.Time) {
	if !r.strangers && r.helloWait < helloLast && !now.Before(r.helloed.Add(max(r.helloWait, helloFirst))) {
		r.strangers, r.helloAt, r.stirred = true, now, true
	}
}

// adopt makes the server a replica, or renews what is known of it.
func (r *Receiver) adopt(now time.Time, from netip.AddrPort, w *wire.Welcome, o *wire.Offer) {
	if !o.Group.IsValid() || !o.Group.Addr().IsMulticast() {
		return
	}
	if p := r.replica(from, w.Server, w.Epoch); p != nil {
		p.hear(now)
		p.cookie, p.withdrawn, p.nbd, p.tls = w.Cookie, false, w.NBD, w.TLS
		if p.handle != o.Handle {
			p.handle, p.group, p.stream, p.reported = o.Handle, o.Group, stream{}, 0
		}
		return
	}
	// A server that was started anew at the same address replaces what it was.
	for _, p := range slices.Clone(r.replicas) {
		if p.addr == from {
			r.remove(now, p)
		}
	}
	if len(r.replicas) >= maxReplicas {
		r.remove(now, r.leastUseful())
	}
	r.replicas = append(r.replicas, &replica{
		id: w.Server, epoch: w.Epoch, addr: from, handle: o.Handle, cookie: w.Cookie, group: o.Group, nbd: w.NBD, tls: w.TLS,
		heard: now, reportAt: now.Add(reportMin),
	})
	r.helloWait = 0
	// Whatever waits may be better asked here.
	for block, w := range r.wants {
		if w.state != wantIdle && w.from.misses > 0 {
			r.again = append(r.again, block)
		}
	}
	slices.Sort(r.again)
}

// leastUseful is the replica that has brought the fewest blocks, the one known longest of several: those who say that they serve and do not
// cannot keep out one that does.
func (r *Receiver) leastUseful() *replica {
	return slices.MinFunc(r.replicas, func(a, b *replica) int { return cmp.Compare(a.blocks, b.blocks) })
}

// remove forgets a replica. What was asked of it is asked of another.
func (r *Receiver) remove(now time.Time, old *replica) {
	r.replicas = slices.DeleteFunc(r.replicas, func(p *replica) bool { return p == old })
	delete(r.batch, old)
	for block, w := range r.wants {
		if w.state != wantIdle && w.from == old {
			r.stop(w)
			r.again = append(r.again, block)
		}
	}
	slices.Sort(r.again)
	for _, a := range r.asms {
		if a.from == old {
			a.open = false
		}
	}
	if len(r.replicas) == 0 {
		r.helloAt, r.helloWait = now, 0
	}
}
