package mcast

import (
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// maxQueued bounds the blocks that one client can have queued, so that no client can fill the server's memory: 4096 blocks are
// 256 MiB of 64 KiB blocks, far beyond what a client's window asks for.
const maxQueued = 4096

// maxJobs bounds the blocks that all clients together have queued: 4 GiB of 64 KiB blocks. Beyond it a client can have fewQueued, so that
// those who queue many do not keep the others from reading.
const (
	maxJobs   = 65536
	fewQueued = 8
)

// jobState is where a job is on its way from a WANT to the wire.
type jobState uint8

const (
	jobQueued  jobState = iota // waits for its turn
	jobLoading                 // its bytes are being read
	jobReady                   // its bytes are here
	jobSending                 // some of its symbols are out
	jobHeld                    // not in its turn yet, see Sender.hold
)

type jobKey struct {
	handle uint16
	block  uint32
}

// job is one block that will be sent, whole or in part, for one or many clients.
type job struct {
	key     jobKey
	export  *export
	class   wire.Priority
	state   jobState
	whole   bool   // some client has nothing of it
	need    int    // else: fresh symbols for each generation
	unasked int    // symbols of parity for each generation that will go with the whole block, as it looked when the job was made
	wanters bitset // slots of the peers that want it
	data    []byte

	symbols []int     // indexes to be sent, once state is jobSending
	parity  [][]byte  // the last len(parity) of symbols
	until   time.Time // while state is jobHeld
	next    int       // in symbols
}

// waits says whether nothing of the job has been done.
func (j *job) waits() bool { return j.state == jobQueued || j.state == jobHeld }

// widen takes in that a client lacks need symbols of each generation, or with 0 the whole block.
func (j *job) widen(need uint16) {
	if need == 0 || int(need) >= j.export.layout(j.key.block).perGen() {
		j.whole = true
	}
	j.need = max(j.need, int(need))
}

// symbolsLeft is how many symbols the job will still send, roughly while it has not begun.
func (j *job) symbolsLeft() int {
	if j.state == jobSending {
		return len(j.symbols) - j.next
	}
	l := j.export.layout(j.key.block)
	if j.whole {
		return l.k + min(j.unasked, l.perGen())*l.gens
	}
	return j.need * l.gens
}

// peer is a client as the server knows it. It exists only for addresses that returned a valid cookie.
type peer struct {
	addr    netip.AddrPort
	slot    int // in schedule.peers
	heard   time.Time
	queues  [wire.Classes][]*job
	active  [wire.Classes]bool // it is in schedule.active: there may be something in the queue
	queued  int                // jobs in the queues that count for this peer
	deficit int                // bytes that it may still be sent in this round
	reports map[uint16]*report
	company company
	ration  ration
}

// schedule is the order in which jobs are sent: demand before read-ahead before bulk, and among clients deficit round robin
// (Shreedhar and Varghese 1995). A block that many want counts for all of them, so a crowd that reads the same blocks gets
// as much as one client that reads others.
type schedule struct {
	peers   []*peer               // nil where a peer left
	free    []int                 // where that is
	live    int                   // how many are not nil
	active  [wire.Classes][]*peer // in turn, those that may have something queued
	quantum int                   // bytes that a peer gets in a round: the largest block, so that each round sends something
}

func (s *schedule) add(p *peer) {
	s.live++
	if n := len(s.free); n > 0 {
		p.slot = s.free[n-1]
		s.free = s.free[:n-1]
		s.peers[p.slot] = p
		return
	}
	p.slot = len(s.peers)
	s.peers = append(s.peers, p)
}

// drop removes a peer.
func (s *schedule) drop(p *peer) {
	s.peers[p.slot] = nil
	s.free = append(s.free, p.slot)
	s.live--
	for class, active := range p.active {
		if active {
			s.active[class] = slices.DeleteFunc(s.active[class], func(x *peer) bool { return x == p })
		}
	}
}

// enqueue puts j into p's queue of its class, and counts it if p did not want it before.
func (s *schedule) enqueue(j *job, p *peer) {
	q := p.queues[j.class]
	if len(q) > 2*p.queued+64 { // jobs that were sent for others
		q = slices.DeleteFunc(q, func(x *job) bool { return x.state != jobQueued || x.class != j.class })
	}
	p.queues[j.class] = append(q, j)
	if !p.active[j.class] {
		p.active[j.class] = true
		s.active[j.class] = append(s.active[j.class], p)
	}
	if !j.wanters.has(p.slot) {
		j.wanters.set(p.slot)
		p.queued++
	}
}

// pick takes the next job to be loaded, of a class that is at least as urgent as last, or nil.
func (s *schedule) pick(last wire.Priority) *job {
	for class := range last + 1 {
		if j := s.pickClass(class); j != nil {
			return j
		}
	}
	return nil
}

// pickClass looks at no peer that has nothing in the class: with ten thousand it is called for each of their datagrams.
func (s *schedule) pickClass(class wire.Priority) *job {
	for len(s.active[class]) > 0 {
		p := s.active[class][0]
		j := p.head(class)
		switch {
		case j == nil:
			p.active[class] = false
			s.active[class] = s.active[class][1:]
		case p.deficit <= 0:
			p.deficit += s.quantum
			s.active[class] = append(s.active[class][1:], p)
		default:
			p.queues[class] = p.queues[class][1:]
			s.charge(j)
			return j
		}
	}
	return nil
}

// charge lets j count for everyone who wanted it.
func (s *schedule) charge(j *job) {
	l := j.export.layout(j.key.block)
	cost := min(j.symbolsLeft()*l.size, s.quantum)
	for i := j.wanters.next(0); i >= 0; i = j.wanters.next(i + 1) {
		p := s.peers[i]
		p.queued--
		// A peer may fall behind by some rounds, not for ever.
		p.deficit = max(p.deficit-cost, -8*s.quantum)
	}
}

// head returns p's first job of the class that is still to be sent in it. Jobs that were sent for another peer, or were moved to
// another class, are dropped on the way.
func (p *peer) head(class wire.Priority) *job {
	q := p.queues[class]
	for len(q) > 0 && (q[0].state != jobQueued || q[0].class != class) {
		q[0] = nil
		q = q[1:]
	}
	if len(q) == 0 {
		// An idle peer does not save up for later.
		p.queues[class] = nil
		if p.queued == 0 {
			p.deficit = min(p.deficit, 0)
		}
		return nil
	}
	p.queues[class] = q
	return q[0]
}
