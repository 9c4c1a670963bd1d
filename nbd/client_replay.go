package nbd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	// MinReplay is the least that DialConfig.Replay may be, if not 0, in bytes.
	MinReplay = 1 << 20
	// replayShare is how many of the largest writes there is room for: enough to have some under way while others are flushed.
	replayShare = 8
	// keptLeast is what a write counts as at least, in bytes, for what is kept beside its data.
	keptLeast = 4096
	// keptPiece is how data is cut: a part that another write covers is given back by copying what is left of its piece.
	keptPiece = 128 << 10
	// replayDepth is how many writes are replayed at once.
	replayDepth = 32
)

// kept is a write that was answered and not flushed. It never changes.
type kept struct {
	off, end       int64
	command, flags uint16
	data           []byte // of a write
	answer         uint64 // its number
}

// cost is what k counts as.
func (k *kept) cost() int64 { return max(keptLeast, int64(len(k.data))) }

// part is [from, to) of k, with data of its own.
func (k *kept) part(from, to int64) *kept {
	p := *k
	p.off, p.end = from, to
	if k.data != nil {
		p.data = slices.Clone(k.data[from-k.off : to-k.off])
	}
	return &p
}

// request is what brings k about again.
func (k *kept) request() *call {
	return &call{
		command: k.command, flags: k.flags, offset: uint64(k.off), length: uint64(k.end - k.off), data: k.data,
		done: make(chan struct{}, 1),
	}
}

// unflushed is what a client that is the only writer keeps to be replayed: for each byte the last write that was answered,
// unless it was flushed. A write is taken out where a later one covers it, so the order of a replay does not matter, and
// what FUA made stable is never undone by it. For this no two writes of the same bytes are under way together: which one the
// server carried out last could not be told. The client's mu guards it.
type unflushed struct {
	limit   int64
	piece   int64 // how data is cut
	used    int64 // what is kept, and may have to be of what is under way
	kept    []*kept
	answers uint64
	busy    []span        // of writes under way
	freed   chan struct{} // closed when busy or used fell; nil while nobody waits
}

// newUnflushed makes an empty log for an export with this smallest block.
func newUnflushed(limit, block int64) *unflushed {
	return &unflushed{limit: limit, piece: max(keptPiece, block)}
}

// need is what a request may add to used: its data, its last piece that is short, and a part cut off another.
func (u *unflushed) need(request *call) int64 { return int64(len(request.data)) + 2*keptLeast }

// overlaps says whether a write under way touches s.
func (u *unflushed) overlaps(s span) bool {
	return slices.ContainsFunc(u.busy, func(b span) bool { return b.from < s.to && s.from < b.to })
}

// enter notes that a write of s, which may add need, is under way.
func (u *unflushed) enter(s span, need int64) {
	u.busy = append(u.busy, s)
	u.used += need
}

// leave takes back enter.
func (u *unflushed) leave(s span, need int64) {
	i := slices.Index(u.busy, s)
	u.busy = slices.Delete(u.busy, i, i+1)
	u.used -= need
	u.wake()
}

// wake wakes those who wait for something to be freed.
func (u *unflushed) wake() {
	if u.freed != nil {
		close(u.freed)
		u.freed = nil
	}
}

// waiting returns what will be closed when something is freed.
func (u *unflushed) waiting() <-chan struct{} {
	if u.freed == nil {
		u.freed = make(chan struct{})
	}
	return u.freed
}

// copies is what is to be kept of a request; nothing when it is on stable storage.
func (u *unflushed) copies(request *call) []*kept {
	if request.flags&cmdFlagFUA != 0 {
		return nil
	}
	k := kept{command: request.command, flags: request.flags &^ cmdFlagFastZero}
	off, end := int64(request.offset), int64(request.offset+request.length)
	if request.data == nil {
		k.off, k.end = off, end
		return []*kept{&k}
	}
	var pieces []*kept
	for data := range slices.Chunk(request.data, int(u.piece)) {
		p := k
		p.off, p.end, p.data = off, off+int64(len(data)), slices.Clone(data)
		pieces = append(pieces, &p)
		off = p.end
	}
	return pieces
}

// put keeps pieces, which fill s, in place of what was there.
func (u *unflushed) put(s span, pieces []*kept) {
	u.answers++
	for _, p := range pieces {
		p.answer = u.answers
	}
	from, to := int64(s.from), int64(s.to)
	first := sort.Search(len(u.kept), func(i int) bool { return u.kept[i].end > from })
	last := first
	for ; last < len(u.kept) && u.kept[last].off < to; last++ {
		k := u.kept[last]
		u.used -= k.cost()
		if k.off < from {
			pieces = slices.Insert(pieces, 0, k.part(k.off, from))
		}
		if k.end > to {
			pieces = append(pieces, k.part(to, k.end))
		}
	}
	for _, p := range pieces {
		u.used += p.cost()
	}
	u.kept = slices.Replace(u.kept, first, last, pieces...)
}

// flushed forgets what was answered up to an answer.
func (u *unflushed) flushed(answer uint64) {
	u.kept = slices.DeleteFunc(u.kept, func(k *kept) bool {
		if k.answer > answer {
			return false
		}
		u.used -= k.cost()
		return true
	})
	u.wake()
}

// keep carries out a write that is kept until it is flushed.
func (c *Client) keep(ctx context.Context, request call) error {
	s, need := span{request.offset, request.offset + request.length}, c.log.need(&request)
	if err := c.enter(ctx, s, need); err != nil {
		return err
	}
	var copies []*kept
	for {
		_, generation, err := c.do(ctx, request)
		if err == nil && copies == nil {
			copies = c.log.copies(&request)
		}
		c.mu.Lock()
		if err == nil && generation != c.generation && c.dead == nil {
			c.mu.Unlock()
			continue // the connection broke just after the answer, and the replay did not know of it
		}
		if err == nil {
			c.log.put(s, copies)
		}
		c.log.leave(s, need)
		if c.log.used > c.log.limit/2 {
			c.flushSoonLocked()
		}
		c.mu.Unlock()
		return err
	}
}

// enter waits until no write that touches s is under way, and there is room for need.
func (c *Client) enter(ctx context.Context, s span, need int64) error {
	flushed := false // waited for a flush to make room
	for {
		c.mu.Lock()
		switch {
		case c.dead != nil:
			err := c.dead
			c.mu.Unlock()
			return err
		case c.log.overlaps(s):
		case c.log.used+need <= c.log.limit:
			c.log.enter(s, need)
			c.mu.Unlock()
			return nil
		case flushed && c.flushFailed != nil:
			err := c.flushFailed
			c.mu.Unlock()
			return fmt.Errorf("flush to make room for replays: %w", err)
		default:
			flushed = c.flushSoonLocked()
		}
		freed := c.log.waiting()
		c.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
		}
	}
}

// flushSoonLocked has what is kept flushed in the background, and says whether there is something to be.
func (c *Client) flushSoonLocked() bool {
	if len(c.log.kept) == 0 || c.dead != nil {
		return false
	}
	if c.flushing {
		return true
	}
	c.flushing, c.flushFailed = true, nil
	c.wg.Go(func() {
		err := c.flushLog(c.ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.flushing, c.flushFailed = false, err
		if err != nil {
			c.oweLocked(fmt.Errorf("%w: %w", ErrWritesLost, err))
		}
		c.log.wake()
	})
	return true
}

// flushLog flushes, and forgets what that covers. Whichever connection it goes over: what was answered before it began was
// answered on that one's generation, or replayed before there was one.
func (c *Client) flushLog(ctx context.Context) error {
	c.mu.Lock()
	answered := c.log.answers
	c.mu.Unlock()
	if _, _, err := c.do(ctx, call{command: cmdFlush}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log.flushed(answered)
	return nil
}

// flushKept is a caller's flush. It fails when a write could not be replayed, or a flush in the background failed, since the
// last one that told.
func (c *Client) flushKept(ctx context.Context) error {
	c.mu.Lock()
	owed, seen := c.owed, c.debts
	c.owed = nil
	c.mu.Unlock()
	if owed != nil {
		return owed
	}
	if err := c.flushLog(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.debts == seen {
		return nil
	}
	c.owed = nil
	return c.debt
}

// oweLocked has the flushes under way, or else the next one, fail with err.
func (c *Client) oweLocked(err error) {
	c.owed, c.debt = err, err
	c.debts++
}

// replay brings about what is kept on new links. A write that the server refuses now is lost, which a flush will tell. It
// returns an error when a link ended.
func (c *Client) replay(links []*link) error {
	if c.log == nil {
		return nil
	}
	c.mu.Lock()
	writes := slices.Clone(c.log.kept)
	c.mu.Unlock()
	if len(writes) == 0 {
		return nil
	}
	c.config.Log.Info("replaying writes that were not flushed", "uri", c.name, "writes", len(writes))
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for n := range min(replayDepth, len(writes)) {
		wg.Go(func() {
			l := links[n%len(links)]
			for i := next.Add(1); i <= int64(len(writes)) && ctx.Err() == nil; i = next.Add(1) {
				if err := c.replayOne(ctx, l, writes[i-1]); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// replayOne brings about one write on a link. It returns an error when it is to be tried on another one.
func (c *Client) replayOne(ctx context.Context, l *link, k *kept) error {
	err := l.do(ctx, k.request())
	var lost *lostError
	switch {
	case err == nil || ctx.Err() != nil || errors.As(err, &lost):
		return err
	case errors.Is(err, syscall.ESHUTDOWN):
		return &lostError{errShutdownAnswer}
	}
	c.config.Log.Error("a write was not flushed, and cannot be replayed: it is lost", "uri", c.name, "err", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.oweLocked(fmt.Errorf("%w: replay: %w", ErrWritesLost, err))
	return nil
}
