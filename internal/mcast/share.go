package mcast

import (
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// Not every read should be multicast. A block that one client alone has a use for costs all others' links as much as its own, so that
// client had better read it over NBD. Whether others have a use for what a client reads is seen from what they want: each WANT names
// blocks that are to be sent, and as notes those that the client had overheard and has now read, or reads over NBD. So the server
// knows of each client how much of what it waits for others want too, before or after, and tells it in the ACK. Clients for whom that
// is hardly anything read over NBD what they wait for; read-ahead and bulk stay in the group, as others come to them later.

const (
	// settleTime is how long after a client wanted a block another may want it too, before it counts as one that it alone wants. Who
	// comes later still corrects that.
	settleTime = time.Second / 2
	// companyBlocks is how many blocks a client must have waited for before anything follows from them, and companyMemory after how many
	// the older ones count half.
	companyBlocks = 16
	companyMemory = 128
	// A client of whose blocks less than one in aloneBelow are wanted by others is alone, until one in aloneUntil is.
	aloneBelow = 16
	aloneUntil = 8
	// maxUses bounds the blocks of an image of which it is known who wanted them.
	maxUses = 1 << 16
)

// company is how much of what a client waits for others want too.
type company struct {
	blocks, shared int
	alone          bool
}

// count takes in a block that the client waited for, and whether others want it.
func (c *company) count(shared bool) {
	if c.blocks++; shared {
		c.shared++
	}
	if c.blocks >= companyMemory {
		c.blocks, c.shared = c.blocks/2, c.shared/2
	}
	c.judge()
}

// correct takes in that a block was wanted by others that had been counted as wanted by nobody else.
func (c *company) correct() {
	c.shared = min(c.shared+1, c.blocks)
	c.judge()
}

func (c *company) judge() {
	if c.alone {
		c.alone = c.shared*aloneUntil < c.blocks
	} else {
		c.alone = c.blocks >= companyBlocks && c.shared*aloneBelow < c.blocks
	}
}

// use is who wanted a block lately.
type use struct {
	block   uint32
	first   *peer
	last    *peer
	at      time.Time // when first did
	waited  bool      // first waited for it
	shared  bool      // others want it too
	settled bool      // it was counted for first
}

// uses are the blocks of an image that were wanted lately.
type uses struct {
	byBlock map[uint32]*use
	order   []*use // by time
	settled int    // how many of order are
}

// wanted takes in that a client wants a block, or notes that it does. overheard is that it had it already.
func (u *uses) wanted(now time.Time, p *peer, block uint32, class wire.Priority, overheard bool) {
	u.settle(now)
	waits := class == wire.Demand || class == wire.Note
	was := u.byBlock[block]
	switch {
	case was != nil && p != was.first && p != was.last:
		was.last = p
		if !was.shared && was.settled && was.waited {
			was.first.company.correct()
		}
		was.shared = true
		if waits {
			p.company.count(true)
		}
	case overheard:
		if was == nil {
			p.company.count(true) // somebody wanted it, longer ago
		}
	case class == wire.Bulk || was != nil && (!was.settled || p != was.first || p != was.last):
		// Who copies everything says nothing of what is read, and who asks again nothing new.
	default:
		if u.byBlock == nil {
			u.byBlock = map[uint32]*use{}
		}
		n := &use{block: block, first: p, last: p, at: now, waited: waits}
		u.byBlock[block] = n
		u.order = append(u.order, n)
		if len(u.order) > maxUses {
			u.forget()
		}
	}
}

// settle counts the blocks that are old enough.
func (u *uses) settle(now time.Time) {
	for ; u.settled < len(u.order); u.settled++ {
		n := u.order[u.settled]
		if now.Sub(n.at) < settleTime {
			return
		}
		if n.settled = true; n.waited {
			n.first.company.count(n.shared)
		}
	}
}

// forget drops the oldest.
func (u *uses) forget() {
	old := u.order[0]
	u.order[0] = nil
	u.order = u.order[1:]
	u.settled = max(u.settled-1, 0)
	if u.byBlock[old.block] == old {
		delete(u.byBlock, old.block)
	}
}
