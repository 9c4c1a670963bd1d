package mcast

import (
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// burstSymbols bounds a Burst: what one sendmsg with segmentation offload takes.
const (
	burstSymbols = 64
	burstBytes   = 65000
)

// Burst is a train of DATA datagrams for one group, all of equal size but for the last. It is valid until the next call of
// NextBurst.
type Burst struct {
	To       netip.AddrPort
	Headers  [][]byte // wire.DataHeaderSize each
	Payloads [][]byte // of the same symbols
	headers  []byte
	padded   []byte // short symbols in the middle of the train
	overhead int    // see SenderConfig
}

// Bytes is the train's size on the wire, frames included.
func (b *Burst) Bytes() int {
	n := 0
	for _, p := range b.Payloads {
		n += len(p) + wire.DataHeaderSize + b.overhead + frameOverhead
	}
	return n
}

// NextBurst returns what is to be sent now, or nil when the rate or the lack of work forbids: Next then says when to ask again.
//
// A train goes over the ends of blocks, since its length makes it cheap: a block of 64 KiB alone is a long train and a stub. The short
// symbol at a block's end is padded for that, if others follow it.
func (s *Sender) NextBurst(now time.Time) *Burst {
	for _, data := range s.released {
		s.release(data)
	}
	s.released = s.released[:0]
	// A stream that ran dry says so even while others keep the sender busy.
	if tail := s.nextTail(now); tail != nil {
		return tail
	}
	if !s.hasReady() {
		s.pace.actual.idle(now)
		return nil
	}
	if ok, _ := s.pace.ready(now); !ok {
		return nil
	}
	if s.sending == nil {
		s.begin(now)
	}
	e := s.sending.export
	e.pacedFrom(s.pace)
	b := &s.burst
	b.To = e.Offer.Group
	b.Headers, b.Payloads = b.Headers[:0], b.Payloads[:0]
	b.headers, b.padded = slices.Grow(b.headers[:0], burstSymbols*wire.DataHeaderSize), slices.Grow(b.padded[:0], burstBytes)
	symbol := e.layout(s.sending.key.block).size
	room := max(min(s.pace.burst(), burstBytes)/(wire.DataHeaderSize+symbol+b.overhead), 1)
	for room = min(room, burstSymbols); ; s.begin(now) {
		if s.sending.export != e || e.layout(s.sending.key.block).size != symbol {
			break
		}
		s.add(b, room, symbol)
		if s.sending.symbolsLeft() > 0 {
			e.tailAt = time.Time{}
			break
		}
		s.finish(now)
		if len(b.Headers) == room || !s.hasReady() {
			break
		}
	}
	s.stats.Symbols += uint64(len(b.Headers))
	n := b.Bytes()
	s.stats.Bytes += uint64(n)
	e.depart(now)
	s.pace.spend(now, n)
	return b
}

// add lengthens the train with symbols of the block that is being sent, up to room symbols.
func (s *Sender) add(b *Burst, room, symbol int) {
	j, e := s.sending, s.sending.export
	l := e.layout(j.key.block)
	backlog := uint16(min(s.backlog(wire.Bulk), 1<<16-1))
	for ; j.next < len(j.symbols) && len(b.Headers) < room; j.next++ {
		if last := len(b.Payloads) - 1; last >= 0 && len(b.Payloads[last]) < symbol {
			from := len(b.padded)
			b.padded = append(b.padded, b.Payloads[last]...)
			b.padded = append(b.padded, make([]byte, symbol-len(b.Payloads[last]))...)
			b.Payloads[last] = b.padded[from:]
		}
		e.seq++
		d := wire.Data{
			Server: s.cfg.Server, Handle: j.key.handle, Epoch: s.cfg.Epoch, Seq: e.seq, Backlog: backlog,
			Block: j.key.block, Index: uint16(j.symbols[j.next]), K: uint16(l.k), Left: uint8(min(len(j.symbols)-j.next-1, 255)), Class: j.class,
		}
		b.headers = d.AppendHeader(b.headers)
		b.Headers = append(b.Headers, b.headers[len(b.headers)-wire.DataHeaderSize:])
		b.Payloads = append(b.Payloads, j.payload(l))
		e.queued[j.class]--
	}
}

// payload is the symbol that j sends next.
func (j *job) payload(l layout) []byte {
	if i := j.next - (len(j.symbols) - len(j.parity)); i >= 0 {
		return j.parity[i]
	}
	from, to := l.span(j.symbols[j.next])
	return j.data[from:to]
}

// begin starts to send the most urgent job that is ready.
func (s *Sender) begin(now time.Time) {
	var j *job
	for class := range s.ready {
		if q := s.ready[class]; len(q) > 0 {
			j, s.ready[class] = q[0], q[1:]
			break
		}
	}
	e := j.export
	e.queued[j.class] -= j.symbolsLeft()
	l := e.layout(j.key.block)
	last := e.sent[j.key.block]
	lacked, fresh := last.lack(), j.need
	if j.whole {
		fresh = e.parity.take(now, j.key.block, l.perGen(), last.again(l.perGen()))
		j.symbols = make([]int, l.k, l.k+fresh*l.gens)
		for i := range j.symbols {
			j.symbols[i] = i
		}
		s.stats.Blocks++
		s.stats.Parity += uint64(fresh * l.gens)
	} else {
		if e.ahead(wire.Bulk) < l.k {
			fresh += e.parity.spare(fresh, l.perGen())
		}
		s.stats.Repairs += uint64(fresh * l.gens)
	}
	// Fresh symbols for each generation. When all were used the code starts over: whoever still lacks some has missed nearly
	// all of them.
	spare := fieldSize - l.perGen()
	fresh = min(fresh, spare)
	if last.nextParity+fresh > spare {
		last.nextParity = 0
	}
	var indexes []int
	for i := range fresh {
		for g := range l.gens {
			indexes = append(indexes, l.k+(last.nextParity+i)*l.gens+g)
		}
	}
	last.nextParity += fresh
	j.parity = nil
	if len(indexes) > 0 {
		p, err := s.cfg.Coder.parity(l, j.data, indexes)
		if err != nil {
			panic("mcast: " + err.Error()) // whole blocks in a valid layout always have parity
		}
		j.parity = p
		j.symbols = append(j.symbols, indexes...)
	}
	j.state = jobSending
	e.queued[j.class] += len(j.symbols)
	last.before, last.end, last.repair = last.end, e.seq+uint64(len(j.symbols)), fresh
	last.parity += fresh
	if j.whole {
		last.repair, last.parity, last.lacked, last.whole = 0, fresh, lacked, now
	}
	e.remember(j.key.block, last)
	e.tailAt = time.Time{}
	s.sending = j
}

// remember notes a block's transmission, and forgets the oldest when there are too many.
func (e *export) remember(block uint32, t sent) {
	e.sent[block] = t
	e.order = append(e.order, transmission{block, t.end})
	for len(e.order) > maxSent {
		old := e.order[0]
		e.order = e.order[1:]
		if e.sent[old.block].end == old.end { // else it was sent again, later
			delete(e.sent, old.block)
		}
	}
}

// finish ends the job whose last symbol has just been put in the burst.
func (s *Sender) finish(now time.Time) {
	j, e := s.sending, s.sending.export
	s.sending = nil
	s.unload(j)
	delete(e.wanted, j.key.block)
	s.released = append(s.released, j.data)
	if len(e.wanted) == 0 {
		e.idleSince = now
		e.tailPause = 0
		e.tailAt = now.Add(tailFirst)
	}
	s.fill()
}

// nextTail repeats the number of the last symbol of a stream that ran dry, when that is due. It goes the way of the data so that
// it cannot overtake it.
func (s *Sender) nextTail(now time.Time) *Burst {
	for _, handle := range s.handles {
		e := s.exports[handle]
		if e.tailAt.IsZero() || now.Before(e.tailAt) {
			continue
		}
		e.tailPause = min(max(e.tailPause*2, tailFirst), tailLast)
		e.tailAt = now.Add(e.tailPause)
		if now.Sub(e.idleSince) > peerAge {
			e.tailAt = time.Time{} // nobody who waits is left
		}
		d := wire.Data{Server: s.cfg.Server, Handle: handle, Epoch: s.cfg.Epoch, Seq: e.seq}
		b := &s.burst
		b.To = e.Offer.Group
		b.headers = d.AppendHeader(b.headers[:0])
		b.Headers, b.Payloads = append(b.Headers[:0], b.headers), append(b.Payloads[:0], nil)
		return b
	}
	return nil
}
