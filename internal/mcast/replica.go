package mcast

import (
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

const (
	// runBlocks is how many neighbouring blocks are asked of the same server: few enough for a window to have runs for each server, and
	// enough for its disk to read ahead. spanRuns is how many runs they have equal parts of.
	runBlocks = 4
	spanRuns  = 12
	// stallMisses is after how many unanswered requests in a row a server is passed over.
	stallMisses = 2
	// fruitless is after how many answered requests that brought no data a server is passed over for suspendTime.
	fruitless   = 4
	suspendTime = 5 * time.Second
	// maxMute is how many requests in a row a server may leave unanswered, although datagrams of its own are heard, before it is passed over
	// for suspendTime: these may be forged, an answer cannot.
	maxMute = 8
	// maxBarren is how often a server that answers may bring nothing of a block before the next one is asked for it. Once may be
	// a burst that was lost.
	maxBarren = 2
	// replicaAge is how long a server may be silent before it is forgotten.
	replicaAge = 30 * time.Second
	// maxReplicas bounds what strangers can make us remember.
	maxReplicas = 64
	// maxUnanswered bounds the requests whose answers are awaited.
	maxUnanswered = 64
)

// replica is a server that offers our image.
type replica struct {
	id     uint16
	epoch  uint32
	addr   netip.AddrPort
	handle uint16
	cookie uint64
	group  netip.AddrPort
	nbd    uint16 // TCP port of its exports, 0 for none
	tls    bool   // which need TLS

	bulkPosition // of its bulk stream

	stream      stream
	watch       uint64 // number of the stream that the end of a burst, or a block that should have come by then, waits for
	rtt         rtt
	heard       time.Time // any datagram
	fed         time.Time // a symbol
	outstanding int       // bytes that it was asked for
	misses      int       // requests in a row that were not answered
	mute        int       // requests in a row that were not answered although it was heard
	suspect     bool      // it owed us blocks and was silent
	barren      bool      // something of what was asked together brought nothing
	fruitless   int       // requests in a row that were answered and brought nothing
	suspended   time.Time // not asked until then
	withdrawn   bool
	alone       bool // nobody else has a use for what we wait for
	slow        bool // it has said that it is faster than we are
	rate        uint64
	backlog     time.Duration
	unanswered  []request
	givenUp     []request // some of the last that were not answered in time, without their blocks
	backedOff   time.Time // when the timeout was last made longer
	reportAt    time.Time // when to send a report if no request carries one
	reported    uint64    // stream.received at the last one

	blocks uint64 // that its symbols completed
}

// request is a WANT whose ACK is awaited.
type request struct {
	stamp  uint32
	at     time.Time
	blocks []uint32
}

// stream is how far the numbered symbols of one replica have been heard.
type stream struct {
	joined   bool
	first    uint64 // number at which it was joined
	seen     uint64
	arrived  time.Time // when the symbol with that number did, zero if it did not
	received uint64
}

// pass takes in that the sender has got as far as seq, and says whether that is news.
func (s *stream) pass(seq uint64) bool {
	if s.joined && seq <= s.seen {
		return false
	}
	if !s.joined {
		s.joined, s.first = true, seq
	}
	s.seen, s.arrived = seq, time.Time{}
	return true
}

// age is how long ago the symbol numbered seen arrived, as a WANT tells it.
func (s *stream) age(now time.Time) uint32 {
	if us := now.Sub(s.arrived).Microseconds(); !s.arrived.IsZero() && us < wire.AgeUnknown {
		return uint32(max(us, 0))
	}
	return wire.AgeUnknown
}

// bulkPosition is the block that a bulk stream is at, once it was heard.
type bulkPosition struct {
	position   uint32
	positioned bool
}

// follow moves the position forward, in an image of so many blocks. What lies behind it, by less than half the image, is a repair. It
// says whether this is the first that was heard.
func (b *bulkPosition) follow(block, blocks uint32) bool {
	first := !b.positioned
	if first || (block+blocks-b.position)%blocks < blocks/2 {
		*b = bulkPosition{position: block, positioned: true}
	}
	return first
}

// live says whether the replica is worth asking.
func (r *replica) live(now time.Time) bool {
	return !r.withdrawn && !r.stalled() && !now.Before(r.suspended)
}

// stalled says whether the replica has been silent for so long that it is passed over: when it owes blocks, one unanswered request is
// enough.
func (r *replica) stalled() bool {
	return r.misses >= stallMisses || r.suspect && r.misses > 0
}

// score orders replicas for a run of blocks: rendezvous hashing (Thaler and Ravishankar 1998), the same at every client because
// it looks at the server's id alone.
func (r *replica) score(block uint32) uint64 {
	x := uint64(r.id)<<32 | uint64(block/runBlocks)
	x ^= x >> 30 // the finaliser of splitmix64
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// choose returns the replica to be asked for a block at the given try, from 0, or nil when there is none at all: first its owner, then
// who were the owner if the one before were not there, and so on. Only live ones are tried; when there is none the others are, so that
// one that comes back is noticed.
func choose(replicas []*replica, now time.Time, block uint32, try int) *replica {
	var room [8]*replica // most groups have fewer
	candidates := room[:0]
	for _, r := range replicas {
		if r.live(now) {
			candidates = append(candidates, r)
		}
	}
	if len(candidates) == 0 {
		for _, r := range replicas {
			if !r.withdrawn {
				candidates = append(candidates, r)
			}
		}
	}
	if len(candidates) == 0 {
		return nil
	}
	for range try % len(candidates) {
		o := owner(candidates, block)
		candidates = slices.DeleteFunc(candidates, func(r *replica) bool { return r == o })
	}
	return owner(candidates, block)
}

// owner returns the replica that is to send a block: of the run's, the one with the highest score that has not got its part of the span's
// runs already. So each has as many runs as the others wherever a client reads, which the scores alone would not see to, and when one goes
// few of the runs of the others move.
func owner(replicas []*replica, block uint32) *replica {
	most := (spanRuns + len(replicas) - 1) / len(replicas)
	var has [maxReplicas]int
	run := block / runBlocks
	for at := run - run%spanRuns; ; at++ {
		best := -1
		for i, r := range replicas {
			if has[i] < most && (best < 0 || r.score(at*runBlocks) > replicas[best].score(at*runBlocks)) {
				best = i
			}
		}
		if at == run {
			return replicas[best]
		}
		has[best]++
	}
}

// Replica is what a Receiver knows of a server.
type Replica struct {
	Server  uint16
	Addr    netip.AddrPort
	NBD     netip.AddrPort // of its exports; not valid when it has none
	TLS     bool           // which need TLS
	Live    bool
	RTT     time.Duration
	Rate    uint64 // bits a second that it announced
	Backlog time.Duration
	Blocks  uint64 // that it sent us
	Share   float64
}

// tag is how an ANNOUNCE names an image.
func tag(id [32]byte) uint64 {
	var t uint64
	for _, b := range id[:8] {
		t = t<<8 | uint64(b)
	}
	return t
}

// announced says which of an ANNOUNCE's images is the one with the id, if any.
func announced(a *wire.Announce, id [32]byte) (state wire.ImageState, ok bool) {
	for _, i := range a.Images {
		if i.Tag == tag(id) {
			return i.State, true
		}
	}
	return 0, false
}
