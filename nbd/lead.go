package nbd

import "time"

const (
	// inlineBytes is the largest read or write that the leader serves itself. Copying more takes long enough that another
	// processor had better do it.
	inlineBytes = 32 << 10
	// inlineBatch and inlineReplies are when the leader writes replies although there are more requests to serve, so that the
	// client has something to do: in bytes of data and in replies.
	inlineBatch   = 128 << 10
	inlineReplies = 32
	// quickTime is how long a small request may take of a device that counts as quick: less than anything that waits for a
	// disk, more than a copy from memory.
	quickTime = 100 * time.Microsecond
	// quickRun is how many small requests must have been quick before the leader serves the next one. Each that was not costs
	// as many as slowCost, a leader that got stuck stuckCost; no more than quickMost are remembered. On a busy machine a few
	// in a hundred take long only because they had to wait for a processor.
	quickRun  = 16
	slowCost  = 32
	stuckCost = 64
	quickMost = 128
	// watchTick is how often somebody looks whether the leader is stuck: a request that is slow where none was expected to be
	// delays others by twice that at most.
	watchTick = time.Millisecond
)

// leadership is who reads requests, and whether it is stuck elsewhere. The transmission's mu guards it.
type leadership struct {
	term  int         // of the leader; each has its own
	busy  bool        // the leader serves a request or writes replies
	seq   int         // how often it became busy
	quick int         // small requests that were quick, less the cost of those that were not
	watch *time.Timer // calls look, unless nothing was busy lately; nil before the first use
	armed bool        // watch runs
	seen  int         // seq when look was called last
}

// close stops the timer.
func (l *leadership) close() {
	if l.watch != nil {
		l.watch.Stop()
	}
}

// follow leads until requests end, or another goroutine leads.
func (t *transmission) follow(term int) {
	for t.flush(term) {
		r, errno, text, err := t.receive()
		switch {
		case r == nil:
			t.end(err)
			return
		case !t.inline(r, errno):
			t.wg.Go(func() {
				t.serve(r, errno, text)
				t.send(r)
			})
		default:
			t.serve(r, errno, text)
			if !t.post(term, r) {
				return
			}
		}
	}
}

// end is called by the leader when it has read the last request. What it has queued is for another goroutine to write: run
// has to watch over that, and may be the leader.
func (t *transmission) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended, t.err = true, err
	t.changed.Broadcast()
	if !t.writing && len(t.queue) > 0 {
		t.wg.Go(t.write)
	}
}

// small says whether r is one of those that a leader may serve itself.
func (r *request) small() bool {
	return r.length <= inlineBytes && (r.command == cmdRead || r.command == cmdWrite && r.flags&cmdFlagFUA == 0)
}

// judge takes note of how long r took.
func (l *leadership) judge(r *request) {
	switch {
	case !r.small():
	case r.quick:
		l.quick = min(l.quick+1, quickMost)
	default:
		l.quick = max(l.quick-slowCost, 0)
	}
}

// inline says whether the leader is to serve r itself, and if so makes it busy.
func (t *transmission) inline(r *request, errno uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if errno == 0 && (!r.small() || t.lead.quick < quickRun) {
		return false
	}
	t.busyLocked()
	return true
}

// busyLocked notes that the leader is about to do what may take long.
func (t *transmission) busyLocked() {
	l := &t.lead
	l.busy = true
	l.seq++
	switch {
	case l.armed:
		return
	case l.watch == nil:
		l.watch = time.AfterFunc(watchTick, t.look)
	default:
		l.watch.Reset(watchTick)
	}
	l.armed = true
}

// look replaces a leader that has been busy with one thing since the last look.
func (t *transmission) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &t.lead
	stuck := l.busy && l.seq == l.seen
	if stuck {
		l.busy = false
		l.quick = max(l.quick-stuckCost, 0)
		l.term++
		term := l.term
		t.wg.Go(func() { t.follow(term) })
	}
	l.armed = l.busy || l.seq != l.seen
	l.seen = l.seq
	if l.armed {
		l.watch.Reset(watchTick)
	}
}

// post queues the reply to a request that the leader served. It returns false when another goroutine leads now; the reply
// is written then.
func (t *transmission) post(term int, r *request) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queueLocked(r)
	if t.lead.term != term {
		if !t.writing {
			t.writeLocked()
		}
		return false
	}
	t.lead.busy = false
	return true
}

// flush writes what the leader has queued if it would wait for a request now, or when it is much. It returns false when
// another goroutine leads now.
func (t *transmission) flush(term int) bool {
	idle := t.r.Buffered() < t.headerLength()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.writing || len(t.queue) == 0 || !idle && t.queued < inlineBatch && len(t.queue) < inlineReplies {
		return true
	}
	t.busyLocked()
	t.writeLocked()
	if t.lead.term != term {
		return false
	}
	t.lead.busy = false
	return true
}

// flushAside lets another goroutine write what is queued, if the leader would wait for n bytes of data now. The client
// may be one that reads no reply before it has sent those.
func (t *transmission) flushAside(n int) {
	if t.r.Buffered() >= n {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.writing && len(t.queue) > 0 {
		t.wg.Go(t.write)
	}
}
