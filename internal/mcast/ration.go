package mcast

import (
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// What was sent is sent again for a client in proportion to what it reports to have received. A client that keeps up, whatever it loses,
// is far from the bound, and one that comes late and asks for all that went out before gets it as fast as it proves that it arrives, as by
// TCP's slow start. One that nothing reaches costs the group hardly anything, nor does one that asks for the same for ever.

const (
	// firstRation is how many symbols a client may be sent again before it has reported that any arrived: 2 MiB. rationMost bounds what it
	// saves up, and rationSecond is what each second adds. demandRation is kept for what somebody waits for.
	firstRation  = 1536
	rationMost   = 2 * firstRation
	rationSecond = 64
	demandRation = firstRation / 3
	// rationEach is how many it may be sent for each one that it received: at a loss of p it asks for p / (1-p).
	rationEach = 2
	// Of one block a client may be sent againMost times its symbols in againTime for that. Then it asks for it for another reason than loss,
	// and further ones go from a purse that holds sparePurse, and gets one for each spareEach that were received. They are as many because
	// somebody may forge symbols, which spoil a block each time.
	againMost  = 16
	againTime  = 5 * time.Second
	sparePurse = firstRation / 2
	spareEach  = 64
	// againBlocks is how many blocks are watched for that: those of a window.
	againBlocks = 64
	// refusedTime is for how long a stream should move before a client asks again for what it was refused.
	refusedTime = 100 * time.Millisecond
)

// ration is what one client may still be sent again, in symbols.
type ration struct {
	symbols float64
	spare   float64 // of blocks that it was sent very often
	at      time.Time

	// What was reported last.
	begun    bool
	handle   uint16
	seen     uint64
	received uint32

	again *[againBlocks]again // nil until it was sent something again
	since time.Time           // this is counted
}

// again is how many symbols of a block were sent again for a client.
type again struct {
	key     jobKey
	symbols int
}

func newRation(now time.Time) ration {
	return ration{symbols: firstRation, spare: sparePurse, at: now}
}

// credit takes in a report on a stream whose last symbol has the number last. What it tells to have received beyond what was sent does not
// count.
func (q *ration) credit(now time.Time, w *wire.Want, last uint64) {
	seen, got := w.Seen, w.Received
	if !w.Joined {
		seen, got = last, 0 // as it will count when it has joined
	}
	received := 0.0
	if seen <= last { // else a forged number had led it astray
		if n := int32(got - q.received); q.begun && w.Handle == q.handle && n > 0 && seen >= q.seen {
			received = float64(min(uint64(n), seen-q.seen))
		}
		q.begun, q.handle, q.seen, q.received = true, w.Handle, seen, got
	}
	passed := rationSecond * max(now.Sub(q.at).Seconds(), 0)
	q.at = now
	q.symbols = min(q.symbols+rationEach*received+passed, rationMost)
	q.spare = min(q.spare+received/spareEach+passed, sparePurse)
}

// take counts n symbols of a block of k that was sent before, if they may be sent again, and says whether.
func (q *ration) take(key jobKey, class wire.Priority, k, n int) bool {
	if q.again == nil {
		q.again = new([againBlocks]again)
	}
	if q.at.Sub(q.since) >= againTime {
		*q.again, q.since = [againBlocks]again{}, q.at
	}
	a := &q.again[key.block%againBlocks]
	if a.key != key {
		*a = again{key: key}
	}
	least := float64(demandRation)
	if class == wire.Demand {
		least = 0
	}
	purse := &q.symbols
	if a.symbols >= againMost*k {
		purse, least = &q.spare, 0
	}
	if *purse <= least {
		return false
	}
	*purse -= float64(n)
	a.symbols += n
	return true
}

// afford says whether p may be sent n more symbols of a block. Of one that was not sent lately it may.
func (s *Sender) afford(p *peer, e *export, block uint32, class wire.Priority, n int) bool {
	if _, ok := e.sent[block]; !ok || n <= 0 {
		return true
	}
	if p.ration.take(jobKey{e.Offer.Handle, block}, class, e.layout(block).k, n) {
		return true
	}
	s.stats.Refused++
	return false
}

// refusedUntil is the number of a stream after which a client is to ask again that was refused everything.
func (s *Sender) refusedUntil(e *export) uint64 {
	bytes := s.pace.expected() / 8 * refusedTime.Seconds()
	return e.seq + uint64(bytes)/uint64(s.cfg.MaxPayload+frameOverhead)
}
