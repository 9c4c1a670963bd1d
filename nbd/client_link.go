package nbd

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// sendBuffer is how many bytes are written with one call. Requests are gathered in it, data too: a copy in the
	// processor's cache costs less than a call for each part, and a caller who gives up need not wait for a server that does
	// not read.
	sendBuffer = 256 << 10
	// smallRequest is the most that a caller sends by himself: a header, and data worth copying under a lock.
	smallRequest = 8 << 10
	// largeRead is the read whose request is not worth waiting for others to go with it.
	largeRead = 64 << 10
	// partingTime is how long the goodbye to a server may take.
	partingTime = time.Second
)

// link is a connection in the transmission phase. A goroutine sends what calls are queued, another one reads the replies,
// straight into the callers' memory. Neither waits for the other, so a server that does not read is still listened to. A
// caller whose request has no others to go with sends it himself, if that does not block.
type link struct {
	agreement
	conn       net.Conn
	try        func([]byte) int // writes what does not block, nil where that cannot be done
	in         replyReader
	generation int
	// ended is told why the link ended, by the reader, before the calls are.
	ended func(*link, error)
	over  chan struct{} // closed after ended returned
	wg    sync.WaitGroup

	pending atomic.Int64 // bytes and requests under way, to choose between links

	mu      sync.Mutex // guards what follows, and what call says; never held while waiting for the server
	work    sync.Cond  // on mu: queue grew, or closing or err was set
	idle    sync.Cond  // on mu: some call's busy fell
	calls   map[uint64]*call
	queue   []*call // not sent yet, or not wholly; all are in calls, but for those abandoned after an early error
	cookie  uint64
	sending bool   // somebody writes to conn, without the lock
	small   []byte // what a caller sends by himself; his who set sending
	rest    []byte // what of small did not go out
	closing bool
	err     error // why there is no more link
}

func newLink(h *handshake, generation int, ended func(*link, error)) *link {
	l := &link{agreement: h.agreed, conn: h.conn, generation: generation, ended: ended, calls: make(map[uint64]*call), over: make(chan struct{})}
	l.in, l.try = newReplyReader(h.conn, h.agreed.form), tryWriter(h.conn)
	l.work.L, l.idle.L = &l.mu, &l.mu
	return l
}

// start begins sending and reading. The link ends by end or goodbye, or when the connection does.
func (l *link) start() {
	l.wg.Go(l.send)
	l.wg.Go(func() {
		err := l.readReplies()
		l.finish(err)
	})
}

// do sends c and waits for the reply, or for ctx. c.data is not touched after it returned. The error is a lostError when the
// connection ended before the reply.
func (l *link) do(ctx context.Context, c *call) error {
	if err := l.enqueue(c); err != nil {
		return err
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	}
	l.abandon(c)
	select {
	case <-c.done: // at the same time
		return c.err
	default:
		return ctx.Err()
	}
}

// enqueue gives c to the sender.
func (l *link) enqueue(c *call) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || l.closing {
		return &lostError{cmp.Or(l.err, net.ErrClosed)}
	}
	l.cookie++
	c.cookie = l.cookie
	c.spans = c.oneSpan[:0]
	l.calls[c.cookie] = c
	l.pending.Add(c.weight())
	if l.suitsLocked(c) {
		l.sendSmallLocked(c)
		return nil
	}
	l.queue = append(l.queue, c)
	l.work.Signal()
	return nil
}

// suitsLocked says whether the caller should send c himself. Small requests that come thick and fast are better sent together.
func (l *link) suitsLocked(c *call) bool {
	if l.try == nil || l.sending || len(l.queue) > 0 || len(l.rest) > 0 {
		return false
	}
	if c.writes() {
		return len(l.calls) == 1 && c.length+lenExtendedHeader <= smallRequest
	}
	return len(l.calls) == 1 || c.command == cmdRead && c.length >= largeRead
}

// sendSmallLocked sends c at once. It unlocks mu meanwhile.
func (l *link) sendSmallLocked(c *call) {
	c.begun = true
	l.small = c.appendHeader(l.small[:0], l.form)
	if c.writes() {
		l.small = append(l.small, c.data...)
		c.sent = len(c.data)
	}
	l.sending = true
	l.mu.Unlock()
	n := l.try(l.small)
	l.mu.Lock()
	l.sending = false
	l.rest = l.small[n:]
	if len(l.rest) > 0 || len(l.queue) > 0 || l.closing || l.err != nil {
		l.work.Signal()
	}
}

// abandon makes everybody let go of c's data. What was not sent yet is not; what was sent in part is completed from a copy,
// and a reply is read and dropped.
func (l *link) abandon(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls[c.cookie] != c {
		return // it is over
	}
	c.abandoned = true
	if !c.begun {
		l.queue = slices.DeleteFunc(l.queue, func(q *call) bool { return q == c })
		l.forgetLocked(c)
		return
	}
	l.letGoLocked(c)
}

// letGoLocked waits until nobody is at c's data, which does not take long, and leaves the sender a copy of what it still
// has to send.
func (l *link) letGoLocked(c *call) {
	for c.busy {
		if !c.writes() {
			// The reader may be waiting for more of it. This wakes it up, and does not harm the stream.
			_ = l.conn.SetReadDeadline(time.Unix(1, 0))
		}
		l.idle.Wait()
	}
	if c.writes() && c.sent < len(c.data) {
		c.data, c.sent = slices.Clone(c.data[c.sent:]), 0
	} else if !c.writes() {
		c.data = nil
	}
}

// forgetLocked takes c off the calls that replies are expected to.
func (l *link) forgetLocked(c *call) {
	delete(l.calls, c.cookie)
	l.pending.Add(-c.weight())
}

// send is the goroutine that writes.
func (l *link) send() {
	defer l.conn.Close() // wakes the reader
	out := make([]byte, 0, sendBuffer)
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.err == nil {
		if l.sending || len(l.queue) == 0 && len(l.rest) == 0 && !l.closing {
			l.work.Wait()
			continue
		}
		out = append(out[:0], l.rest...)
		l.rest = nil
		out = l.gatherLocked(out)
		last := len(l.queue) == 0 && l.closing
		if last {
			out = (&call{command: cmdDisconnect}).appendHeader(out, l.form)
		}
		l.sending = true
		l.mu.Unlock()
		_, err := l.conn.Write(out)
		l.mu.Lock()
		l.sending = false
		if err != nil && l.err == nil {
			l.err = err
		}
		if last {
			return
		}
	}
}

// gatherLocked appends as much of the queue as there is room for. It unlocks mu while it copies.
func (l *link) gatherLocked(out []byte) []byte {
	for l.err == nil && len(l.queue) > 0 {
		c := l.queue[0]
		if !c.begun {
			if cap(out)-len(out) < 2*lenExtendedHeader { // room for this one and a goodbye
				return out
			}
			c.begun = true
			out = c.appendHeader(out, l.form)
		}
		if c.writes() {
			rest := c.data[c.sent:]
			rest = rest[:min(len(rest), cap(out)-len(out)-lenExtendedHeader)]
			c.busy = true
			l.mu.Unlock()
			out = append(out, rest...)
			l.mu.Lock()
			c.busy = false
			l.idle.Broadcast()
			if c.sent += len(rest); c.sent < len(c.data) {
				return out
			}
		}
		l.queue = slices.Delete(l.queue, 0, 1)
	}
	return out
}

// end closes the link at once, because of err.
func (l *link) end(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	l.work.Signal()
	l.mu.Unlock()
	_ = l.conn.Close()
}

// goodbye ends the link as the protocol wants it. The calls under way fail.
func (l *link) goodbye() {
	l.mu.Lock()
	l.closing = true
	l.work.Signal()
	l.mu.Unlock()
	_ = l.conn.SetWriteDeadline(time.Now().Add(partingTime))
	l.wg.Wait()
}

// finish is the end of the reader: all calls fail, after nobody is at their data.
func (l *link) finish(err error) {
	_ = l.conn.Close()
	l.mu.Lock()
	if l.err != nil {
		err = l.err // the reader only saw that the connection was closed
	} else if l.closing {
		err = net.ErrClosed
	}
	l.err = err
	l.work.Signal()
	l.mu.Unlock()
	l.ended(l, err)
	close(l.over)

	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		for c.busy {
			l.idle.Wait() // for the sender
		}
		l.completeLocked(c, &lostError{err})
	}
}

// completeLocked ends c.
func (l *link) completeLocked(c *call, err error) {
	l.forgetLocked(c)
	c.err = err
	if !c.abandoned {
		c.done <- struct{}{}
	}
}

// expected finds the call that a reply is for.
func (l *link) expected(cookie uint64) (*call, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[cookie]
	if c == nil || !c.begun {
		return nil, lies("a reply to cookie %d, which nothing under way has", cookie)
	}
	return c, nil
}

// complete ends c when its reply has come.
func (l *link) complete(c *call) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	failed, lie := c.verdict(len(l.contexts))
	if lie != nil {
		return lie
	}
	l.letGoLocked(c) // an error may come before all data was sent
	l.completeLocked(c, failed)
	return nil
}

// fill reads the next len(p) bytes, which are for part p of c's data, or drops them once c is abandoned. at is where p begins.
func (l *link) fill(c *call, at, n uint64) error {
	l.mu.Lock()
	if c.abandoned {
		l.mu.Unlock()
		return l.drop(n)
	}
	p := c.data[at : at+n]
	c.busy = true
	l.mu.Unlock()
	for len(p) > 0 {
		got, err := l.in.read(p)
		if p = p[got:]; err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			l.release(c)
			return err
		}
		if l.resume(c) {
			return l.drop(uint64(len(p)))
		}
	}
	l.release(c)
	return nil
}

// release tells that c's data is let go.
func (l *link) release(c *call) {
	l.mu.Lock()
	c.busy = false
	l.idle.Broadcast()
	l.mu.Unlock()
}

// resume goes on reading after somebody was in a hurry. It returns true, having let go, when that was because of c.
func (l *link) resume(c *call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.conn.SetReadDeadline(time.Time{})
	if c == nil || !c.abandoned {
		return false
	}
	c.busy = false
	l.idle.Broadcast()
	return true
}

// zero clears part of c's data.
func (l *link) zero(c *call, at, n uint64) {
	l.mu.Lock()
	if c.abandoned {
		l.mu.Unlock()
		return
	}
	p := c.data[at : at+n]
	c.busy = true
	l.mu.Unlock()
	clear(p)
	l.release(c)
}
