package mcast

import (
	"cmp"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

const (
	// deafAfter is how many times in a row a server may grant a block and no data come at all before multicast is held to be broken: on
	// a local network about a quarter of a second.
	deafAfter = 4
	// A Receiver that is deaf stays so for deafMin, whatever it hears, and while it is it asks the group for a block each deafMin. Both are
	// longer each time that it is deaf again before data has come for a while: see retreat.
	deafMin = time.Second
	// retreatMax is the longest retreat, and steadyTimes as long as the last one the group must have been of use for the next to be as short
	// as the first.
	retreatMax  = 5 * time.Minute
	steadyTimes = 10
)

// retreat is a time in which the group is of no use: twice as long as the one before it if that was not long ago.
type retreat struct {
	on    bool
	end   time.Time // when it may end, or has ended
	pause time.Duration
}

// begin begins one, of at least so long.
func (t *retreat) begin(now time.Time, least time.Duration) {
	if t.pause > 0 && now.Sub(t.end) < steadyTimes*t.pause {
		t.pause = min(2*t.pause, retreatMax)
	} else {
		t.pause = least
	}
	t.on, t.end = true, now.Add(t.pause)
}

// finish ends it.
func (t *retreat) finish(now time.Time) { t.on, t.end = false, now }

// Deaf says whether servers grant what we ask for, again and again, and no data arrives at all: as where a switch or firewall drops
// multicast. It ends with data, but not at once: the longer, the more often it came and went.
func (r *Receiver) Deaf() bool { return r.deaf.on }

// listen takes in that a want was granted and its time has passed.
func (r *Receiver) listen(now time.Time, w *want) {
	fed := func(p *replica) bool { return !p.fed.Before(w.asked) }
	if r.deaf.on || w.barren < deafAfter || slices.ContainsFunc(r.replicas, fed) {
		return
	}
	r.deaf.begin(now, deafMin)
	r.deafOver = false
}

// hark takes in that data has come.
func (r *Receiver) hark() {
	if r.deaf.on {
		r.deafOver, r.stirred = true, true
	}
}

// endDeaf ends that the Receiver is deaf, when data has come and it is time. What was asked for in vain is asked for anew: if that is in
// vain too, it is soon known.
func (r *Receiver) endDeaf(now time.Time) {
	if !r.deaf.on || !r.deafOver || now.Before(r.deaf.end) {
		return
	}
	r.deaf.finish(now)
	r.askAnew()
}

// askAnew asks again for all that was asked for, as if nothing had come to nothing.
func (r *Receiver) askAnew() {
	for _, w := range r.awaited {
		w.barren = 0
		r.again = append(r.again, w.block)
	}
}

// Spare makes the Receiver ask the group for one block now and then, so that it notices when data arrives again, or ends that. The
// owner gets what is wanted by other means meanwhile: see Lacking.
func (r *Receiver) Spare(on bool) {
	r.sparing, r.stirred = on, true
	r.spareAt = time.Time{}
}

// Lacking returns up to n of those blocks that are wanted and not here, and that can be got as the owner says: first those that somebody
// waits for, then read-ahead and bulk, each in the order of their numbers. Of a Receiver that neither spares the group nor has left it
// they are those that are left to the owner.
func (r *Receiver) Lacking(n int, can func(block uint32) bool) []uint32 {
	r.parting = false
	if !r.sparing && !r.away && r.cfg.Group.IsValid() {
		return r.partedBlocks(n, can)
	}
	wants := make([]*want, 0, len(r.wants))
	for _, w := range r.wants {
		if w.class < wire.Bulk && can(w.block) {
			wants = append(wants, w)
		}
	}
	slices.SortFunc(wants, func(a, b *want) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.block, b.block))
	})
	blocks := make([]uint32, 0, n)
	for _, w := range wants[:min(n, len(wants))] {
		blocks = append(blocks, w.block)
	}
	for at := r.bulk.next(0); at >= 0 && len(blocks) < n; at = r.bulk.next(at + 1) {
		if w := r.wants[uint32(at)]; (w == nil || w.class == wire.Bulk) && can(uint32(at)) {
			blocks = append(blocks, uint32(at))
		}
	}
	return blocks
}

// Supply says that a block came by other means.
func (r *Receiver) Supply(block uint32) {
	if w := r.wants[block]; w != nil {
		r.settle(block, w)
	}
	if a := r.asms[block]; a != nil {
		r.dropAssembly(a)
		r.Recycle(a.data)
		a.data = nil
	}
	if r.bulk.has(int(block)) {
		r.bulk.clear(int(block))
		r.bulkLeft--
	}
}
