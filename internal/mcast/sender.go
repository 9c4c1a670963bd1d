package mcast

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

const (
	// maxPeers bounds the clients that a server keeps state for. A further one takes the place of one that has said nothing for quietAge,
	// one each roomPeriod: it takes a millisecond where much is queued.
	maxPeers   = 16384
	quietAge   = time.Second
	roomPeriod = 10 * time.Millisecond
	// peerAge is how long a client is remembered after its last WANT.
	peerAge = 15 * time.Second
	// announcePeriod is the time between two ANNOUNCEs.
	announcePeriod = time.Second
	// tailFirst and tailLast bound the pauses between the tail marks of a stream that ran dry; each is twice the one before
	// (the variable heartbeat of LBRM, Holbrook et al. 1995).
	tailFirst = 2 * time.Millisecond
	tailLast  = 500 * time.Millisecond
	// loadAhead bounds the jobs that are being loaded or wait for their turn on the wire: enough to hide a disk's latency,
	// few enough that a demand never waits long behind them, and bounded in bytes too.
	loadAhead      = 32
	loadAheadBytes = 4 << 20
	// maxSent bounds how many transmissions a stream remembers. Older ones are out of every client's reach.
	maxSent = 1 << 16
	// frameOverhead is what a datagram of IPv4 over Ethernet costs on the wire beyond its payload, in bytes.
	frameOverhead = 14 + 20 + 8
)

// SenderConfig says who a Sender is.
type SenderConfig struct {
	Server     uint16         // id, unique in the group
	Epoch      uint32         // random at each start
	Secret     [32]byte       // random, for cookies
	Group      netip.AddrPort // of discovery
	MaxPayload int            // bytes of UDP payload that fit the path's MTU, at least 1200
	Overhead   int            // bytes that the owner adds to each datagram, beside these
	Rate       uint64         // bits a second on the wire, 0 to follow the receivers' reports
	NBD        uint16         // TCP port of the NBD exports, 0 for none
	TLS        bool           // which need TLS
	Coder      *Coder
	// Release, if not nil, is called with the buffer that Loaded brought once the Sender does not need it any more.
	Release func(data []byte)
}

// Export is an image that a Sender offers.
type Export struct {
	Offer  wire.Offer
	ID     [32]byte
	Blocks uint32                 // data blocks and pages of the tree
	Length func(block uint32) int // in bytes, for each of them
}

// export is an Export with its stream.
type export struct {
	Export
	maxSymbol int
	state     wire.ImageState
	seq       uint64            // last number given out
	queued    [wire.Classes]int // symbols of jobs not yet sent, roughly
	sent      map[uint32]sent
	order     []transmission // in the order of sending; the last one of each block is in sent
	parity    parity
	census    census
	trains    []train // of late, in the order of sending
	step      int     // of the pacer, that stepSeq is of
	stepSeq   uint64  // last number given out before it

	idleSince time.Time // the stream ran dry
	tailAt    time.Time // when to repeat its last number, zero while there is work
	tailPause time.Duration
	wanted    map[uint32]*job
	uses      uses
}

// transmission is a block that was sent, up to a sequence number.
type transmission struct {
	block uint32
	end   uint64
}

// sent is the last transmission of a block.
type sent struct {
	end        uint64    // sequence number of its last symbol
	before     uint64    // and of the transmission before it
	repair     int       // symbols of each generation, all of them fresh; 0 if it was the whole block
	nextParity int       // symbols of parity used so far, for each generation
	parity     int       // and since the whole block was sent last
	lacked     int       // see lack, for the time before that
	whole      time.Time // when the whole block was sent last
}

// short is how many symbols of each generation a client will lack still when this has reached it, which lacked need when it had heard the
// stream up to a number before the end. It is 0 where that is not known.
func (t sent) short(need int, seen uint64, gens int) int {
	if t.repair == 0 || seen < t.before {
		return 0
	}
	coming := (t.end - seen + uint64(gens) - 1) / uint64(gens)
	return max(need-int(min(coming, uint64(t.repair))), 0)
}

// lack is how many symbols of parity for each generation the block took when it was sent whole last. If nobody asked for more it may be that
// one less would have done.
func (t sent) lack() int {
	if t.repair == 0 {
		return max(t.parity-1, 0)
	}
	return t.parity
}

// again is how many of them go with it when it is sent whole again: as many as it took both of the last times. Who overhears a block asks
// for what is missing when he comes to need it, so that what is asked for soon after a block was sent is not what it lacked.
func (t sent) again(k int) int { return min(t.lack(), t.lacked, k/mostAgain) }

// train is what was sent at once: symbols up to a number.
type train struct {
	end uint64
	at  time.Time
}

// maxTrains bounds how many trains a stream remembers: at 10 Gbit/s those of the last 200 ms.
const maxTrains = 4096

// depart notes that the symbols so far have been sent.
func (e *export) depart(now time.Time) {
	if len(e.trains) == maxTrains {
		e.trains = e.trains[1:]
	}
	e.trains = append(e.trains, train{e.seq, now})
}

// departed is when the symbol with a number was sent, zero if that was too long ago.
func (e *export) departed(seq uint64) time.Time {
	i, _ := slices.BinarySearchFunc(e.trains, seq, func(t train, seq uint64) int { return cmp.Compare(t.end, seq) })
	if i == len(e.trains) || i == 0 && len(e.trains) == maxTrains {
		return time.Time{}
	}
	return e.trains[i].at
}

// ahead is how many symbols of the stream will be sent before what is enqueued in a class now.
func (e *export) ahead(class wire.Priority) int {
	n := 0
	for _, queued := range e.queued[:class+1] {
		n += queued
	}
	return n
}

// pacedFrom returns the last number given out before the last step of the rate. It is called before each burst.
func (e *export) pacedFrom(p *pacer) uint64 {
	if e.step != p.steps {
		e.step, e.stepSeq = p.steps, e.seq
	}
	return e.stepSeq
}

// symbols is how many a request asks for that lacks need of each generation of a block, or with 0 the whole.
func (e *export) symbols(block uint32, need uint16) int {
	l := e.layout(block)
	if need == 0 || int(need) >= l.perGen() {
		return l.k
	}
	return int(need) * l.gens
}

func (e *export) layout(block uint32) layout { return newLayout(e.Length(block), e.maxSymbol) }

// Load asks the owner of a Sender to read a block and to hand it back by Loaded.
type Load struct {
	Handle uint16
	Block  uint32
}

// Sender is the server's side of the protocol on one network.
type Sender struct {
	cfg     SenderConfig
	jar     *cookieJar
	exports map[uint16]*export
	handles []uint16 // of exports, in order
	peers   map[netip.AddrPort]*peer
	sched   schedule
	pace    *pacer

	ahead, aheadBytes int // jobs loading or ready
	ready             [wire.Classes][]*job
	sending           *job
	draining          bool

	announceAt time.Time
	sweepAt    time.Time
	roomAt     time.Time // no client has been quiet for quietAge before
	room       int       // jobs that may still be queued, while a WANT is taken in
	holds      bool      // one of its blocks is held
	held       []*job    // in the order in which they are to be queued, with some that were given up

	packets  []Packet
	loads    []Load
	released [][]byte
	burst    Burst
	want     wire.Want
	stats    SenderStats
}

// SenderStats counts what a Sender did.
type SenderStats struct {
	Blocks     uint64 // sent whole
	Repairs    uint64 // parity symbols sent on request
	Parity     uint64 // parity symbols sent unasked
	Symbols    uint64
	Bytes      uint64 // on the wire, frames included
	Wants      uint64 // datagrams
	Suppressed uint64 // requests for blocks that were in flight
	Merged     uint64 // requests for blocks that were queued already
	Refused    uint64 // requests for blocks that were sent before, beyond what the client reports to receive
	Denied     uint64
	Malformed  uint64
	Clients    int
	Slow       int    // of them, that do not keep up
	Rate       uint64 // bits a second
	Queued     int    // symbols
}

// NewSender returns a Sender that offers nothing yet.
func NewSender(cfg SenderConfig) *Sender {
	return &Sender{
		cfg:     cfg,
		jar:     newCookieJar(cfg.Secret, cfg.Epoch),
		exports: map[uint16]*export{},
		peers:   map[netip.AddrPort]*peer{},
		pace:    newPacer(cfg.Rate),
		burst:   Burst{overhead: cfg.Overhead},
	}
}

// Add offers an image. Its Offer.Handle must be new.
func (s *Sender) Add(e Export) {
	s.exports[e.Offer.Handle] = &export{
		Export:    e,
		maxSymbol: s.cfg.MaxPayload - wire.DataHeaderSize,
		sent:      map[uint32]sent{},
		wanted:    map[uint32]*job{},
	}
	s.handles = append(s.handles, e.Offer.Handle)
	s.sched.quantum = max(s.sched.quantum, 1<<e.Offer.BlockLog)
	s.announceAt = time.Time{}
}

// SetState says whether an image is served or withdrawn. What is queued of a withdrawn image is not sent.
func (s *Sender) SetState(handle uint16, state wire.ImageState) {
	e := s.exports[handle]
	if e == nil || e.state == state {
		return
	}
	e.state = state
	s.announceAt = time.Time{}
	if state == wire.ImageWithdrawn {
		for _, j := range e.wanted {
			if j.state != jobSending { // its bytes were good when they were read
				s.abandon(j)
			}
		}
	}
}

// Drain makes the Sender send what is queued and take in nothing more: what clients ask for from now on they are sent to others for.
func (s *Sender) Drain() {
	s.draining = true
	s.announceAt = time.Time{}
}

// Drained says whether everything has been sent that was queued before Drain.
func (s *Sender) Drained() bool {
	for _, e := range s.exports {
		if len(e.wanted) > 0 {
			return false
		}
	}
	return s.draining
}

// stateOf is what clients are told of an image.
func (s *Sender) stateOf(e *export) wire.ImageState {
	if s.draining {
		return wire.ImageWithdrawn
	}
	return e.state
}

// Stats returns the counts so far.
func (s *Sender) Stats() SenderStats {
	st := s.stats
	st.Clients = s.sched.live
	st.Rate = uint64(s.pace.rate)
	for _, e := range s.exports {
		st.Queued += e.ahead(wire.Bulk)
	}
	for _, p := range s.peers {
		if slices.ContainsFunc(s.handles, p.slow) {
			st.Slow++
		}
	}
	return st
}

// Packets returns the control datagrams to be sent, in order, and forgets them.
func (s *Sender) Packets() []Packet {
	out := s.packets
	s.packets = nil
	return out
}

// Loads returns the blocks to be read, most urgent first, and forgets them.
func (s *Sender) Loads() []Load {
	out := s.loads
	s.loads = nil
	return out
}

func (s *Sender) send(to netip.AddrPort, data []byte) {
	s.packets = append(s.packets, Packet{To: to, Data: data})
}

// Input takes a control datagram that arrives now. It does not keep b.
func (s *Sender) Input(now time.Time, from netip.AddrPort, b []byte) { s.InputLate(now, now, from, b) }

// InputLate is Input for a datagram that arrived before now and has waited to be read: that is no queue of the network's.
func (s *Sender) InputLate(now, arrived time.Time, from netip.AddrPort, b []byte) {
	t, err := wire.TypeOf(b)
	if err != nil {
		s.stats.Malformed++
		return
	}
	switch t {
	case wire.TypeHello:
		s.hello(from, b)
	case wire.TypeWant:
		s.handleWant(now, arrived, from, b)
	}
}

func (s *Sender) hello(from netip.AddrPort, b []byte) {
	h, err := wire.ParseHello(b)
	if err != nil {
		s.stats.Malformed++
		return
	}
	w := wire.Welcome{
		Server: s.cfg.Server,
		Epoch:  s.cfg.Epoch,
		Nonce:  h.Nonce,
		Cookie: s.jar.cookie(from),
		NBD:    s.cfg.NBD,
		TLS:    s.cfg.TLS,
	}
	if h.Cookie != w.Cookie {
		s.send(from, w.Append(nil))
		return
	}
	var offers []wire.Offer
	for _, handle := range s.handles {
		if e := s.exports[handle]; s.stateOf(e) == wire.ImageServed && asksFor(&h, &e.Export) {
			offers = append(offers, e.Offer)
		}
	}
	parts := wire.SplitOffers(offers)
	if len(parts) == 0 {
		parts = append(parts, nil) // it is not here: without an answer we would be asked again
	}
	w.Parts = uint8(min(len(parts), 255))
	for i, part := range parts[:w.Parts] {
		w.Part, w.Offers = uint8(i), part
		s.send(from, w.Append(nil))
	}
}

func asksFor(h *wire.Hello, e *Export) bool {
	switch h.Want {
	case wire.HelloName:
		return h.Name == e.Offer.Name && (h.Revision == 0 || h.Revision == e.Offer.Revision)
	case wire.HelloID:
		return h.ID == e.ID
	}
	return true
}

// Tick does what is due by time alone: announcements, tail marks, forgetting silent clients.
func (s *Sender) Tick(now time.Time) {
	if !now.Before(s.announceAt) {
		s.announce(false)
		s.announceAt = now.Add(announcePeriod)
	}
	if !now.Before(s.sweepAt) {
		s.sweepAt = now.Add(peerAge / 4)
		for _, p := range s.sched.peers {
			if p != nil && now.Sub(p.heard) > peerAge {
				s.forget(p)
			}
		}
	}
	s.unhold(now)
	s.fill()
}

// forget drops a client and the jobs that only it wanted.
func (s *Sender) forget(p *peer) {
	for _, handle := range s.handles {
		if p.queued == 0 {
			break // as with nearly all that are silent
		}
		e := s.exports[handle]
		var blocks []uint32
		for block, j := range e.wanted {
			if j.waits() && j.wanters.has(p.slot) {
				blocks = append(blocks, block)
			}
		}
		slices.Sort(blocks) // the same order in every run
		for _, block := range blocks {
			j := e.wanted[block]
			j.wanters.clear(p.slot)
			if other := j.wanters.next(0); other >= 0 {
				s.sched.enqueue(j, s.sched.peers[other]) // it may have stood in p's queue alone
				continue
			}
			e.queued[j.class] -= j.symbolsLeft()
			j.state = jobSending // so that no queue offers it
			delete(e.wanted, block)
		}
	}
	s.sched.drop(p)
	delete(s.peers, p.addr)
}

// clients is how many there are, as the group is told.
func (s *Sender) clients() uint16 { return uint16(min(s.sched.live, 1<<16-1)) }

// Leave queues the announcement that the server stops.
func (s *Sender) Leave() { s.announce(true) }

func (s *Sender) announce(leaving bool) {
	a := wire.Announce{
		Server:  s.cfg.Server,
		Leaving: leaving,
		Epoch:   s.cfg.Epoch,
		Rate:    uint64(s.pace.rate),
		Backlog: s.backlog(wire.Bulk),
		Clients: s.clients(),
	}
	for i := 0; i == 0 || i < len(s.handles); i += wire.MaxAnnounced {
		a.Images = a.Images[:0]
		for _, handle := range s.handles[i:min(i+wire.MaxAnnounced, len(s.handles))] {
			e := s.exports[handle]
			a.Images = append(a.Images, wire.AnnouncedImage{Handle: handle, State: s.stateOf(e), Tag: tag(e.ID)})
		}
		s.send(s.cfg.Group, a.Append(nil))
	}
}

// Next returns when Tick or NextBurst has something to do next, if nothing else happens before.
func (s *Sender) Next(now time.Time) time.Time {
	next := s.announceAt
	if s.sweepAt.Before(next) {
		next = s.sweepAt
	}
	for _, handle := range s.handles {
		if t := s.exports[handle].tailAt; !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	if len(s.held) > 0 && s.held[0].until.Before(next) {
		next = s.held[0].until
	}
	if s.hasReady() {
		if _, at := s.pace.ready(now); at.Before(next) {
			next = at
		}
	}
	return next
}

func (s *Sender) hasReady() bool {
	if s.sending != nil {
		return true
	}
	for _, q := range s.ready {
		if len(q) > 0 {
			return true
		}
	}
	return false
}
