package mcast

import (
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

func (r *Receiver) data(now, arrived time.Time, from netip.AddrPort, b []byte) error {
	var d wire.Data
	payload, err := wire.ParseData(b, &d)
	if err != nil {
		return err
	}
	n := uint64(1)
	if d.K == 0 {
		n = 0
	}
	p := r.note(now, arrived, from, &d, n)
	if p == nil || n == 0 {
		return nil
	}
	return r.place(now, p, &d, payload)
}

// place puts a symbol of p's where it belongs.
func (r *Receiver) place(now time.Time, p *replica, d *wire.Data, payload []byte) error {
	a, err := r.assign(now, p, d)
	if err != nil {
		return err
	}
	if a == nil {
		r.stats.Duplicates += uint64(len(payload))
		return nil
	}
	if !a.add(int(d.Index), payload) {
		r.stats.Duplicates += uint64(len(payload))
	}
	return r.placed(now, p, a, d)
}

// assign returns the assembly that a symbol of p's belongs to, or nil if it is of no use.
func (r *Receiver) assign(now time.Time, p *replica, d *wire.Data) (a *assembly, err error) {
	if d.Block >= r.cfg.Blocks {
		return nil, wire.ErrValue
	}
	if d.Class == wire.Bulk && d.Index < d.K {
		p.follow(d.Block, r.cfg.Blocks)
		first := r.follow(d.Block, r.cfg.Blocks)
		r.stirred = r.stirred || first
	}
	a = r.last
	if a == nil || a.block != d.Block {
		if r.skipping && r.skip == d.Block {
			return nil, nil
		}
		if a, err = r.assembly(now, d); err != nil {
			return nil, err
		}
		if a == nil {
			r.skip, r.skipping = d.Block, true
			return nil, nil
		}
		r.last, r.skipping = a, false
	}
	if int(d.K) != a.layout.k {
		l, err := layoutOf(a.layout.length, int(d.K))
		if err != nil {
			return nil, err
		}
		if w := r.wants[d.Block]; a.open && a.from != p && (w == nil || w.from != p) {
			return nil, nil // two servers cut it differently: one at a time, and first the one that was asked
		}
		a.restart(l)
	}
	return a, nil
}

// placed takes in that symbols up to d have been put into an assembly.
func (r *Receiver) placed(now time.Time, p *replica, a *assembly, d *wire.Data) error {
	if !a.open {
		a.open = true
		r.open = append(r.open, a)
	}
	r.stirred = r.stirred || a.from != nil && a.from != p
	a.from, a.heard, a.repair = p, now, time.Time{}
	a.end = d.Seq + uint64(d.Left)
	a.late = a.late && (d.Index >= d.K || d.Seq < p.stream.first+uint64(d.Index))
	p.watch = min(p.watch, a.end)
	r.stirred = r.stirred || p.stream.seen >= a.end
	if a.missing() == 0 {
		return r.completed(a, p)
	}
	return nil
}

// note takes in what symbols tell of their stream, n of them up to d or, with 0, a tail mark. It returns the server that sent them, if it
// is one of ours.
func (r *Receiver) note(now, arrived time.Time, from netip.AddrPort, d *wire.Data, n uint64) *replica {
	p := r.stream(from.Addr(), d.Server, d.Epoch)
	if p == nil {
		r.stranger(now)
		return nil
	}
	if p.handle != d.Handle {
		return nil // another image's
	}
	r.stirred = r.stirred || p.misses > 0 || d.Seq >= p.watch
	p.hear(now)
	if n > 0 && !p.stream.joined {
		p.reportAt = now.Add(r.reportPeriod() - reportMin) // the server learns how long the way is before it is crowded
	}
	if p.stream.pass(d.Seq) && n > 0 {
		p.stream.arrived = arrived
	}
	if n > 0 {
		p.fed = now
		r.hark()
		p.stream.received += n
		p.backlog = time.Duration(d.Backlog) * time.Millisecond
		r.stats.Symbols += n
		if r.toReport(p) && p.reportAt.Before(r.next) {
			r.next = p.reportAt
		}
	}
	return p
}

// Skim takes in n symbols of blocks that the Receiver does not keep, the last of them d's, at once: for an owner that looks at symbols
// itself, as a simulation of many clients does.
func (r *Receiver) Skim(now time.Time, from netip.AddrPort, d *wire.Data, n uint64) {
	r.note(now, now, from, d, n)
}

// Run takes in up to 64 symbols of one block at once, whose numbers, indexes and counts of what is left follow each other: for the owner of
// a Hollow Receiver. d is the first one's header, and the bits of arrived, from the lowest, say which of them came.
func (r *Receiver) Run(now time.Time, from netip.AddrPort, d wire.Data, arrived uint64) {
	if arrived == 0 || d.K == 0 {
		return
	}
	last := uint(bits.Len64(arrived)) - 1
	d.Seq, d.Left = d.Seq+uint64(last), d.Left-uint8(last)
	p := r.note(now, now, from, &d, uint64(bits.OnesCount64(arrived)))
	if p == nil {
		return
	}
	first := int(d.Index)
	d.Index += uint16(bits.TrailingZeros64(arrived))
	a, err := r.assign(now, p, &d)
	if err == nil && a != nil {
		for ; arrived != 0; arrived &= arrived - 1 {
			a.add(first+bits.TrailingZeros64(arrived), nil)
		}
		err = r.placed(now, p, a, &d)
	}
	if err != nil {
		r.stats.Malformed++
	}
}

// Watch returns the number of a server's stream from which on the Receiver has something to do, and before which its symbols may be
// skimmed later.
func (r *Receiver) Watch(from netip.AddrPort) uint64 {
	for _, p := range r.replicas {
		if p.addr == from {
			return p.watch
		}
	}
	return 0
}

// Idle says whether nothing is wanted and nothing is arriving, so that symbols may be skimmed.
func (r *Receiver) Idle() bool {
	return len(r.wants) == 0 && r.bulkLeft == 0 && len(r.open) == 0 && len(r.holes) == 0 && !r.strangers
}

// restart empties the assembly for another layout.
func (a *assembly) restart(l layout) {
	a.layout = l
	clear(a.got)
	a.have = make([]int, l.gens)
	a.parity = nil
}

// assembly returns the assembly for a symbol's block, a new one if the block is worth it, or nil.
func (r *Receiver) assembly(now time.Time, d *wire.Data) (*assembly, error) {
	if a := r.asms[d.Block]; a != nil {
		return a, nil
	}
	asked := r.wants[d.Block] != nil
	if !asked && !r.bulk.has(int(d.Block)) && !r.cfg.Keep(d.Block) {
		return nil, nil
	}
	length := r.cfg.Length(d.Block)
	l, err := layoutOf(length, int(d.K))
	if err != nil {
		return nil, wire.ErrValue
	}
	if !asked && r.held+length > strayBytes+r.cfg.Window {
		r.evictStray()
	}
	a := &assembly{block: d.Block, layout: l, have: make([]int, l.gens), late: true, heard: now}
	if !r.cfg.Hollow {
		a.data = r.buffer(length)
	}
	r.asms[d.Block] = a
	r.held += length
	if r.strays = append(r.strays, a); len(r.strays) > 2*len(r.asms)+64 {
		r.strays = slices.DeleteFunc(r.strays, func(a *assembly) bool { return r.asms[a.block] != a })
	}
	return a, nil
}

// evictStray gives up the incomplete block whose first symbol came longest ago and that was not asked for: what an image in bulk lacks
// is asked for later.
func (r *Receiver) evictStray() {
	for range len(r.strays) {
		a := r.strays[0]
		r.strays = r.strays[1:]
		switch {
		case r.asms[a.block] != a:
		case r.wants[a.block] != nil:
			r.strays = append(r.strays, a)
		default:
			r.dropAssembly(a)
			r.Recycle(a.data)
			a.data = nil
			return
		}
	}
}

func (r *Receiver) dropAssembly(a *assembly) {
	delete(r.asms, a.block)
	r.held -= a.layout.length
	a.open, a.repair = false, time.Time{}
	if r.last == a {
		r.last = nil
	}
}

// completed hands a block out.
func (r *Receiver) completed(a *assembly, p *replica) error {
	repaired, err := a.complete(r.cfg.Coder)
	if err != nil {
		a.restart(a.layout)
		return err
	}
	if repaired {
		n := 0
		for i := range a.layout.k {
			if !a.got.has(i) {
				n += a.layout.sizeOf(i)
			}
		}
		r.stats.Repaired += uint64(n)
	}
	r.dropAssembly(a)
	p.blocks++
	p.fruitless = 0
	w := r.wants[a.block]
	asked := w != nil && w.state != wantIdle
	if w != nil {
		r.settle(a.block, w)
	}
	if r.bulk.has(int(a.block)) {
		r.bulk.clear(int(a.block))
		r.bulkLeft--
	}
	if asked {
		r.stats.Asked += uint64(a.layout.length)
	} else {
		r.stats.Overheard += uint64(a.layout.length)
	}
	r.blocks = append(r.blocks, Block{Index: a.block, Data: a.data, Asked: asked, From: p.id})
	a.data = nil // it is its owner's now
	// What is left of its burst, parity most likely, is not news.
	r.skip, r.skipping = a.block, true
	return nil
}
