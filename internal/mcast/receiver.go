package mcast

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

const (
	// reorderDelay is how long a hole may be a datagram that another overtook.
	reorderDelay = time.Millisecond
	// repairSpread is how far the requests of many clients for the same repair are spread, for each doubling of their
	// number: what is asked for meanwhile by others need not be asked for again.
	repairSpread = time.Millisecond
	// ackSlack is how long after its server's own estimate a block may still come before it is asked for again. It doubles each time that
	// nothing came, maxPatience times.
	ackSlack    = 20 * time.Millisecond
	maxPatience = 8
	// reportMin and reportMax bound the pause between reports of a client that hears data and asks for nothing; reportEach is how
	// much longer it is for each client in the group.
	reportMin  = 10 * time.Millisecond
	reportMax  = 2 * time.Second
	reportEach = 2 * time.Millisecond
	// reportShare is how many symbols are heard for each client between two reports of one, but for the first reportFew clients. A report
	// and its answer are 172 bytes on the wire: in a crowd all of them together cost 0.25 % of what is sent (RTP's reports are bounded in the
	// same way, RFC 3550).
	reportShare = 48
	reportFew   = 32
	// listenTime is how long a client that wants a whole image listens where the group's stream is before it asks.
	listenTime = 50 * time.Millisecond
	// maxBacklog is the longest that a server is believed to need for what it has queued.
	maxBacklog = time.Minute
	// maxOvertake is how many symbols may be heard before an ACK that was sent earlier: a millisecond of them at 10 Gbit/s.
	maxOvertake = 1024
	// strayBytes bounds incomplete blocks that were not asked for.
	strayBytes = 16 << 20
)

// ReceiverConfig says what a Receiver fetches, and with what means.
type ReceiverConfig struct {
	ID     [32]byte               // of the image
	Blocks uint32                 // data blocks and pages of the tree
	Length func(block uint32) int // in bytes, for each of them
	// Keep says whether a block that was overheard is worth assembling. It is asked once for each time the block is sent.
	Keep   func(block uint32) bool
	Group  netip.AddrPort // of discovery; not valid where there is no group, and the owner gets everything: see Lacking
	Window int            // bytes of read-ahead and bulk that may be asked for and not there yet
	Coder  *Coder
	Rand   *rand.Rand // not to be guessed: what it gives is what others do not know
	// Hollow lets symbols be counted and their bytes forgotten: Blocks have no Data. It is for simulations of more clients than have room
	// for their blocks.
	Hollow bool
}

// Block is a block all of whose symbols arrived. Nothing is known of its truth: its owner checks the hash.
type Block struct {
	Index uint32
	Data  []byte // give it back with Recycle
	Asked bool   // we had asked for it
	From  uint16 // server whose symbols completed it
}

// ReceiverStats counts what a Receiver heard. Bytes are bytes of blocks, without headers.
type ReceiverStats struct {
	Asked      uint64 // bytes of complete blocks that we asked for
	Overheard  uint64 // bytes of complete blocks that we did not ask for
	Repaired   uint64 // bytes that parity restored
	Duplicates uint64 // bytes of symbols that were here already, or are not kept
	Symbols    uint64
	Malformed  uint64
	Wants      uint64 // datagrams
	Again      uint64 // blocks asked for more than once
}

type wantState uint8

const (
	wantIdle  wantState = iota // in a queue
	wantAsked                  // requested, no answer yet
	wantAcked                  // the server will send it, or has
	wantApart                  // the owner is to get it, see Apart
)

// want is a block that its owner needs.
type want struct {
	block   uint32
	place   int // in Receiver.awaited, while state is not wantIdle
	class   wire.Priority
	state   wantState
	try     int
	from    *replica
	stamp   uint32
	asked   time.Time
	barren  int       // times in a row that it was asked for and nothing of it came, though the server answered
	horizon uint64    // it was sent once from's stream has passed this
	passed  time.Time // when that was noticed
	mark    uint64    // how far the stream was when due was set
	due     time.Time // when to ask again at the latest
	length  int
}

// silentAt is when the replica that still has to send the block has been silent for too long.
func (w *want) silentAt() time.Time { return w.from.heard.Add(w.from.rtt.estimate() + w.patience()) }

// patience is how long after its time a block may come: longer each time that nothing of it came, so that a server whose data does not
// reach us is not made to send it without end.
func (w *want) patience() time.Duration { return ackSlack << min(max(w.barren-1, 0), maxPatience) }

// Receiver is the client's side of the protocol for one image.
type Receiver struct {
	cfg      ReceiverConfig
	start    time.Time
	asked    uint64  // nonce of our questions to the group, which everybody hears
	stamps   uint32  // stamp of a request made at the start: nobody who does not see our requests can answer them
	greeter  greeter // its nonces are known to nobody else: nobody can offer an image in a server's name
	replicas []*replica
	clients  int // in the group, as servers count them

	wants        map[uint32]*want
	awaited      []*want             // those that are not idle
	queues       [wire.Bulk][]uint32 // of idle wants
	again        []uint32            // wants to be asked for again, before all others
	bulk         bitset
	bulkLeft     int
	bulkFrom     time.Time // do not ask for bulk before
	bulkPosition           // of whichever server's bulk stream was heard last
	outstanding  int       // bytes asked for

	asms      map[uint32]*assembly
	last      *assembly
	skip      uint32      // block whose symbols are being passed over ...
	skipping  bool        // ... if this is set
	held      int         // bytes in assemblies
	strays    []*assembly // in the order of their first symbols, with some that are gone
	open      []*assembly
	holes     []*assembly
	free      [][]byte
	helloed   time.Time // the group was asked
	helloAt   time.Time
	helloWait time.Duration
	strangers bool      // there are symbols of a server that we do not know
	deaf      retreat   // see Deaf
	deafOver  bool      // data has come since that began
	tooSlow   retreat   // see Slow
	away      bool      // see Leave
	apart     bool      // see Apart
	parted    int       // wants that are left to the owner
	parting   bool      // see Parting
	notes     []uint32  // blocks that were Used
	notesAt   time.Time // when to say so
	sparing   bool      // see Spare
	spareAt   time.Time // when it may ask again

	stirred bool      // something happened that Step must look at
	next    time.Time // when Step has something to do by time alone

	packets []Packet
	blocks  []Block
	batch   map[*replica][]wire.Range
	drops   uint32
	stats   ReceiverStats
}

// NewReceiver returns a Receiver that knows no server yet.
func NewReceiver(now time.Time, cfg ReceiverConfig) *Receiver {
	asked := cfg.Rand.Uint64()
	var secret [32]byte
	binary.BigEndian.PutUint64(secret[:], cfg.Rand.Uint64())
	private := newCookieJar(secret, 0)
	return &Receiver{
		cfg:     cfg,
		start:   now,
		asked:   asked,
		stamps:  uint32(private.cookie(netip.AddrPort{})),
		greeter: greeter{hello: wire.Hello{Want: wire.HelloID, ID: cfg.ID}, private: private},
		wants:   map[uint32]*want{},
		asms:    map[uint32]*assembly{},
		batch:   map[*replica][]wire.Range{},
		helloAt: now,
	}
}

// Want asks for a block, for someone who waits (wire.Demand) or soon will (wire.ReadAhead). It comes out of Blocks, once.
// Asking again with higher priority moves it forward.
func (r *Receiver) Want(now time.Time, block uint32, class wire.Priority) {
	w := r.wants[block]
	r.unskip(block)
	r.stirred = true
	switch {
	case w == nil:
		w = &want{block: block, class: class, length: r.cfg.Length(block)}
		r.wants[block] = w
	case class >= w.class:
		return
	default:
		w.class = class
		if w.state != wantIdle {
			// Tell the server that it is urgent now, unless it is arriving.
			if a := r.asms[block]; a == nil || !a.open {
				r.again = append(r.again, block)
			}
			return
		}
	}
	r.queues[class] = append(r.queues[class], block)
}

// WantBulk asks for a block at the group's convenience: in whichever order the blocks are being sent already.
func (r *Receiver) WantBulk(now time.Time, block uint32) {
	if r.bulk.has(int(block)) {
		return
	}
	if r.bulkLeft == 0 && r.bulkFrom.IsZero() {
		r.bulkFrom = now.Add(listenTime)
	}
	r.unskip(block)
	r.stirred = true
	r.bulk.set(int(block))
	r.bulkLeft++
}

// unskip lets the symbols of a block in again.
func (r *Receiver) unskip(block uint32) {
	if r.skip == block {
		r.skipping = false
	}
}

// Cancel withdraws a Want that has not been answered, as when its reader gave up. Bulk stays.
func (r *Receiver) Cancel(block uint32) {
	if w := r.wants[block]; w != nil && !r.bulk.has(int(block)) {
		r.settle(block, w)
	}
}

// Refuse says that a block did not match its hash, and asks for it again with the class given, of another server if there is
// one.
func (r *Receiver) Refuse(now time.Time, block uint32, class wire.Priority) {
	r.Want(now, block, class)
	if w := r.wants[block]; w != nil {
		w.try++
	}
}

// Recycle gives back the buffer of a Block.
func (r *Receiver) Recycle(data []byte) {
	if len(r.free) < 64 && data != nil {
		r.free = append(r.free, data[:cap(data)])
	}
}

func (r *Receiver) buffer(n int) []byte {
	if len(r.free) > 0 {
		b := r.free[len(r.free)-1]
		r.free = r.free[:len(r.free)-1]
		if cap(b) >= n {
			return b[:n]
		}
	}
	return make([]byte, n, max(n, r.cfg.Length(0)))
}

// SetDrops tells how many datagrams the kernel dropped at our sockets so far, for the reports.
func (r *Receiver) SetDrops(n uint64) { r.drops = uint32(n) }

// Packets returns the control datagrams to be sent, in order, and forgets them.
func (r *Receiver) Packets() []Packet {
	out := r.packets
	r.packets = nil
	return out
}

// Blocks returns the blocks that became complete, and forgets them. The slice is valid until the next Input.
func (r *Receiver) Blocks() []Block {
	out := r.blocks
	r.blocks = r.blocks[:0]
	return out
}

// Groups returns the data groups to be joined, each once.
func (r *Receiver) Groups() []netip.AddrPort {
	var groups []netip.AddrPort
	for _, p := range r.replicas {
		if !slices.Contains(groups, p.group) {
			groups = append(groups, p.group)
		}
	}
	return groups
}

// Replicas returns the servers known now.
func (r *Receiver) Replicas(now time.Time) []Replica {
	var total uint64
	for _, p := range r.replicas {
		total += p.blocks
	}
	var out []Replica
	for _, p := range r.replicas {
		s := Replica{
			Server: p.id, Addr: p.addr, Live: p.live(now), RTT: p.rtt.smooth, Rate: p.rate, Backlog: p.backlog,
			Blocks: p.blocks, Share: float64(p.blocks) / float64(max(total, 1)),
		}
		if p.nbd != 0 {
			s.NBD, s.TLS = netip.AddrPortFrom(p.addr.Addr(), p.nbd), p.tls
		}
		out = append(out, s)
	}
	return out
}

// Waiting returns how many blocks have been wanted and are not here.
func (r *Receiver) Waiting() int { return len(r.wants) }

// Stats returns the counts so far.
func (r *Receiver) Stats() ReceiverStats {
	return r.stats
}

// settle forgets a want.
func (r *Receiver) settle(block uint32, w *want) {
	r.stop(w)
	r.stirred = true // there may be room for others now
	delete(r.wants, block)
}

// await notes that a want was asked for, or need not be.
func (r *Receiver) await(w *want, state wantState) {
	w.state, w.place = state, len(r.awaited)
	r.awaited = append(r.awaited, w)
	r.outstanding += w.length
	w.from.outstanding += w.length
}

// stop makes a want idle again.
func (r *Receiver) stop(w *want) {
	if w.state == wantIdle {
		return
	}
	end := len(r.awaited) - 1
	last := r.awaited[end]
	r.awaited[w.place], last.place = last, w.place
	r.awaited[end] = nil
	r.awaited = r.awaited[:end]
	r.outstanding -= w.length
	w.from.outstanding -= w.length
	if w.state == wantApart {
		r.parted--
	}
	w.state = wantIdle
}
