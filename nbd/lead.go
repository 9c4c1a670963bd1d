package nbd

import (
	"runtime"
	"slices"
	"time"
)

const (
	// inlineBytes is the largest read that the leader always serves itself while the device is quick. More takes long enough
	// that another processor had better do it, if there is one.
	inlineBytes = 32 << 10
	// inlineBatch and inlineReplies are when the leader writes replies although there are more requests to serve, so that the
	// client has something to do: in bytes of data and in replies.
	inlineBatch   = 128 << 10
	inlineReplies = 32
	// maxAside is how much the leader writes to a client while it waits for that one's data: the replies to many writes, and
	// less than any connection takes that has nothing under way.
	maxAside = 4 << 10
	// quickTime is how long a request may take of a device that counts as quick, and quickByte how much longer for each byte:
	// less than anything that waits for a disk, more than a copy from memory.
	quickTime = 100 * time.Microsecond
	quickByte = time.Nanosecond
	// quickRun is how many requests must have been quick before the device counts as quick. Each that was not costs as many
	// as slowCost, one that somebody got stuck in stuckCost; no more than quickMost are remembered. On a busy machine a few in
	// a hundred take long only because they had to wait for a processor.
	quickRun  = 16
	slowCost  = 32
	stuckCost = 64
	quickMost = 128
	// watchFirst is when somebody looks for the first time whether the leader is stuck, or those who serve large reads. While
	// nobody is, the time until the next look doubles up to watchMost: to look wakes a thread, which costs a busy connection a
	// tenth when it happens each millisecond. A request that is slow where none was expected to be delays others by twice
	// watchMost at most.
	watchFirst = time.Millisecond
	watchMost  = 8 * time.Millisecond
	// maxTurn is how long the leader goes on before others may run. From a goroutine that has gone on for 10 ms Go's monitor
	// takes the processor in whatever system call it finds it, and looks again every 20 µs (now_linux.go).
	maxTurn = 5 * time.Millisecond
)

// leadership is who reads requests and who serves them, and whether they are stuck. The transmission's mu guards it.
type leadership struct {
	term  int           // of the leader; each has its own
	busy  bool          // the leader serves a request or writes replies
	seq   int           // how often it became busy
	quick int           // requests that were quick, less the cost of those that were not
	watch *time.Timer   // calls look, unless nothing was busy lately; nil before the first use
	armed bool          // watch runs
	tick  time.Duration // for which it does
	seen  int           // seq when look was called last

	waiting    []*request // large reads, for a pipe
	piped      int        // replies to such that are in the making, queued or being written
	serving    int        // of those, the ones in the making
	served     int        // how often one was made
	servedSeen int        // served when look was called last
}

// unwatch stops the timer. A look that is under way is the last.
func (t *transmission) unwatch() {
	if w := t.lead.watch; w != nil && w.Stop() {
		t.count.busy.Add(-1)
	}
}

// follow leads until requests end, or another goroutine leads.
func (t *transmission) follow(term int) {
	turn := time.Now()
	for t.flush(term) {
		if time.Since(turn) > maxTurn {
			runtime.Gosched()
			turn = time.Now()
		}
		r, errno, text, err := t.receive()
		switch {
		case r == nil:
			t.end(err)
			return
		case t.passes(r):
			t.serve(r, errno, text)
			t.send(r)
			return
		case errno == 0 && t.recall(r):
			if !t.post(term, r) {
				return
			}
		case errno == 0 && t.delegate(r):
		default:
			t.serve(r, errno, text)
			if !t.post(term, r) {
				return
			}
		}
	}
}

// passes makes another goroutine the leader if r is a large write that may be slow. What is to be written is in this
// processor's cache, and had better be written from there.
func (t *transmission) passes(r *request) bool {
	if r.data == nil || r.length <= inlineBytes {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lead.quick >= quickRun && r.plain() {
		return false
	}
	t.passLocked()
	return true
}

// passLocked makes another goroutine the leader.
func (t *transmission) passLocked() {
	t.lead.term++
	term := t.lead.term
	t.wg.Go(func() { t.follow(term) })
}

// end is called by the leader when it has read the last request. What it has queued is for another goroutine to write: run
// has to watch over that, and may be the leader.
func (t *transmission) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
	close(t.ended)
	if !t.writing && len(t.queue) > 0 {
		t.wg.Go(t.write)
	}
}

// plain says whether r reads, or writes what need not be stable: how long that takes shows whether the device is quick.
func (r *request) plain() bool {
	return r.command == cmdRead || r.command == cmdWrite && r.flags&cmdFlagFUA == 0
}

// judge takes note of how long r took.
func (l *leadership) judge(r *request) {
	switch {
	case r.recalled, !r.plain():
	case r.quick:
		l.quick = min(l.quick+1, quickMost)
	default:
		l.quick = max(l.quick-slowCost, 0)
	}
}

// delegate has another goroutine serve r, or makes the leader busy, which is to serve r itself, and returns false.
func (t *transmission) delegate(r *request) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &t.lead
	l.seq++
	t.watchLocked()
	switch quick := l.quick >= quickRun; {
	case quick && r.plain() && (r.length <= inlineBytes || r.command == cmdWrite || t.alone()):
		l.busy = true
		return false
	case quick && r.command == cmdRead && t.splicer != nil:
		l.waiting = append(l.waiting, r)
		t.employLocked()
	default:
		t.startLocked(r)
	}
	return true
}

// alone says whether the leader had better serve large reads itself, and write what it has read from its processor's cache:
// over TLS, which takes far longer than reading, and when as many connections are busy as there are processors, so that
// nobody is free to help.
func (t *transmission) alone() bool {
	_, secure := t.conn.(*tlsConn)
	return secure || t.splicer == nil && t.count.busy.Load() >= int64(runtime.NumCPU())
}

// startLocked has another goroutine serve r.
func (t *transmission) startLocked(r *request) {
	t.wg.Go(func() {
		t.serve(r, 0, "")
		t.send(r)
	})
}

// employLocked starts to serve large reads that wait, as far as there are pipes for what they read.
func (t *transmission) employLocked() {
	l := &t.lead
	for len(l.waiting) > 0 && l.piped < maxPipes {
		r := l.nextLocked()
		r.piped = true
		l.piped++
		l.serving++
		t.startLocked(r)
	}
	if len(l.waiting) > 0 && l.serving > 0 {
		t.watchLocked()
	}
}

// nextLocked takes the read that waits longest.
func (l *leadership) nextLocked() *request {
	r := l.waiting[0]
	l.waiting = slices.Delete(l.waiting, 0, 1)
	return r
}

// watchLocked has look called soon.
func (t *transmission) watchLocked() {
	l := &t.lead
	switch {
	case l.armed:
		return
	case l.watch == nil:
		l.watch = time.AfterFunc(watchFirst, t.look)
	default:
		l.watch.Reset(watchFirst)
	}
	l.armed, l.tick = true, watchFirst
	t.count.busy.Add(1)
}

// look replaces a leader that has been busy with one thing since the last look, and starts all large reads that wait if
// those that are served have made no progress since.
func (t *transmission) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &t.lead
	l.tick = min(2*l.tick, watchMost)
	if l.busy && l.seq == l.seen {
		l.tick = watchFirst
		l.busy = false
		l.quick = max(l.quick-stuckCost, 0)
		t.passLocked()
	}
	if len(l.waiting) > 0 && l.serving > 0 && l.served == l.servedSeen {
		l.tick = watchFirst
		l.quick = max(l.quick-stuckCost, 0)
		for len(l.waiting) > 0 {
			t.startLocked(l.nextLocked())
		}
	}
	l.armed = l.busy || l.seq != l.seen || len(l.waiting) > 0 && l.serving > 0
	l.seen, l.servedSeen = l.seq, l.served
	if l.armed {
		l.watch.Reset(l.tick)
	} else {
		t.count.busy.Add(-1)
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
	t.lead.busy = true
	t.lead.seq++
	t.watchLocked()
	t.writeLocked()
	if t.lead.term != term {
		return false
	}
	t.lead.busy = false
	return true
}

// flushAside has what is queued written, if the leader would wait for n bytes of data now. The client may be one that
// reads no reply before it has sent those; so what it may not take at once another goroutine writes.
func (t *transmission) flushAside(n int) {
	if t.r.Buffered() >= n {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.writing || len(t.queue) == 0 {
		return
	}
	if c, ok := t.conn.(interface{ drained() bool }); ok && t.queued <= maxAside && c.drained() {
		t.writing = true
		t.writeSomeLocked()
		t.writing = false
		t.changed.Broadcast()
	}
	if len(t.queue) > 0 {
		t.wg.Go(t.write)
	}
}
