package mcast

import (
	"cmp"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

const (
	// noteFew is how many clients at most note each block that they had overheard and now have a use for. Of more, as many do.
	noteFew = 16
	// notePause is the time between two datagrams of notes, and maxNotes bounds what is noted meanwhile.
	notePause = 100 * time.Millisecond
	maxNotes  = 1024
)

// Apart says whether the owner can get blocks by other means than the group. Then those that somebody waits for and nobody else in the
// group has a use for are not asked for: they are Lacking.
func (r *Receiver) Apart(on bool) {
	if r.apart == on {
		return
	}
	r.apart, r.stirred = on, true
	if on {
		return
	}
	for _, w := range r.awaited {
		if w.state == wantApart {
			r.again = append(r.again, w.block)
		}
	}
}

// Alone says whether a server has said that nobody else has a use for what we read, or blocks are left to the owner.
func (r *Receiver) Alone() bool {
	if r.parted > 0 {
		return true
	}
	for _, p := range r.replicas {
		if p.alone {
			return true
		}
	}
	return false
}

// Parting says whether a block was left to the owner since Lacking was called last.
func (r *Receiver) Parting() bool { return r.parting }

// part leaves a block to the owner, if that is to be, and says so to its server.
func (r *Receiver) part(now time.Time, p *replica, block uint32, w *want) bool {
	if !r.apart || !p.alone || w.class != wire.Demand || r.asms[block] != nil || r.bulk.has(int(block)) {
		return false
	}
	w.from, w.asked = p, now
	r.await(w, wantApart)
	r.parted++
	r.parting = true
	r.batch[p] = append(r.batch[p], wire.Range{Block: block, Count: 1, Priority: wire.Note})
	return true
}

// Used says that somebody had a use for a block that came without being asked for.
func (r *Receiver) Used(block uint32) {
	if len(r.notes) == maxNotes || r.clients > noteFew && r.cfg.Rand.IntN(r.clients) >= noteFew {
		return
	}
	r.notes = append(r.notes, block)
	r.stirred = true
}

// notify puts what was Used into the next datagrams, when it is time.
func (r *Receiver) notify(now time.Time) {
	if len(r.notes) == 0 || now.Before(r.notesAt) {
		return
	}
	r.notesAt = now.Add(notePause)
	for _, block := range r.notes {
		if p := choose(r.replicas, now, block, 0); p != nil && p.live(now) {
			r.batch[p] = append(r.batch[p], wire.Range{Block: block, Count: 1, Priority: wire.Note, Need: wire.NoteOverheard})
		}
	}
	r.notes = r.notes[:0]
}

// partedBlocks are up to n of the blocks that are left to the owner and that it can get, those first that have waited longest.
func (r *Receiver) partedBlocks(n int, can func(block uint32) bool) []uint32 {
	var wants []*want
	for _, w := range r.awaited {
		if w.state == wantApart && can(w.block) {
			wants = append(wants, w)
		}
	}
	slices.SortFunc(wants, func(a, b *want) int { return cmp.Or(a.asked.Compare(b.asked), cmp.Compare(a.block, b.block)) })
	blocks := make([]uint32, 0, n)
	for _, w := range wants[:min(n, len(wants))] {
		blocks = append(blocks, w.block)
	}
	return blocks
}
