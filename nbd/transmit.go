package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// What one connection may keep busy. When either limit is reached nothing more is read from the client until replies have
// gone out, so a client that sends much and reads nothing waits for itself.
const (
	// maxRequests is twice the queue of the deepest common client, Linux's nbd driver (128).
	maxRequests = 256
	// maxBytes bounds the memory of a connection's buffers. It is what nbdcopy, which asks for the most at once, has under way.
	// A larger read is served when it is alone.
	maxBytes = 16 << 20
	// maxBatch is how many bytes are written with one call before their buffers are free for the next reads: enough to make
	// the calls' cost vanish.
	maxBatch = 1 << 20
)

// transmission is the second phase of a connection, in which the client reads.
//
// One goroutine, that of run, reads requests. Each request has a goroutine of its own, which reads from the device and
// queues the reply. Whoever queues a reply while nobody writes becomes the writer, and writes what is queued until
// nothing is: a lone reply goes out without waking another goroutine, and replies that pile up behind a slow connection
// share a call.
type transmission struct {
	session
	conn  net.Conn
	r     *bufio.Reader
	stock *buffers
	count *counters
	size  int64

	// ctx ends when no reply can be delivered any more; cancel ends it.
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex // guards what follows; it is never held while waiting for the device or the client
	changed  sync.Cond  // on mu: requests or bytes fell, or stopping was set
	requests int        // read but not answered
	bytes    int64      // of data in those requests
	stopping bool       // no more requests are to be read
	queue    []*request // answered, to be written
	writing  bool       // somebody is in write
	broken   error      // why nothing can be written any more

	batch []*request  // the writer's: taken from queue
	parts net.Buffers // the writer's: what batch consists of
	rest  net.Buffers // the writer's: what of parts is to be written
}

// newTransmission returns the transmission phase of conn. Requests come from r, which may have read some ahead.
func newTransmission(ctx context.Context, s session, conn net.Conn, r *bufio.Reader, stock *buffers, count *counters) *transmission {
	t := &transmission{
		session: s,
		conn:    conn,
		r:       r,
		stock:   stock,
		count:   count,
		size:    s.export.Device.Size(),
	}
	t.ctx, t.cancel = context.WithCancel(ctx)
	t.changed.L = &t.mu
	return t
}

// run serves requests until the client disconnects, the stream breaks, or stop is called. It then waits for the requests
// under way; those of a client that is still there get as long as grace to be answered.
func (t *transmission) run(grace time.Duration) error {
	defer t.cancel()
	err := t.readRequests()
	if err == nil {
		timer := time.AfterFunc(grace, func() {
			t.cancel()
			// The replies that this makes, of ESHUTDOWN, get the same time to leave.
			_ = t.conn.SetWriteDeadline(time.Now().Add(grace))
		})
		defer timer.Stop()
	} else {
		t.cancel()
		_ = t.conn.Close() // wakes the writer
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.requests > 0 || t.writing {
		t.changed.Wait()
	}
	if err == nil {
		err = t.broken
	}
	return err
}

// stop makes run read no more requests.
func (t *transmission) stop() {
	t.mu.Lock()
	t.stopping = true
	t.changed.Broadcast()
	t.mu.Unlock()
	_ = t.conn.SetReadDeadline(time.Now())
}

// readRequests reads requests and starts a goroutine for each. It returns nil when the client said that it disconnects, or
// stop was called.
func (t *transmission) readRequests() error {
	for {
		head, err := t.r.Peek(lenRequestHeader)
		if err != nil {
			return t.readError(err)
		}
		r := new(request)
		if err := r.decode(head); err != nil {
			return err
		}
		_, _ = t.r.Discard(lenRequestHeader) // cannot fail: they were peeked at
		if r.command == cmdDisconnect {
			return nil
		}
		if r.command == cmdWrite {
			// Nothing here can be written, but the data must be out of the way of the next request.
			if _, err := io.CopyN(io.Discard, t.r, int64(r.length)); err != nil {
				return t.readError(err)
			}
		}
		errno, text := t.check(r)
		if errno == 0 && r.command == cmdRead {
			r.cost = int64(r.length)
		}
		if !t.acquire(r.cost) {
			return nil
		}
		go t.serve(r, errno, text)
	}
}

// readError is the error with which reading ends: nil after stop.
func (t *transmission) readError(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopping || t.broken != nil {
		return t.broken
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read request: %w", err)
}

// check returns the error number that r deserves, and the reason as a text, or 0.
func (t *transmission) check(r *request) (errno uint32, text string) {
	switch r.command {
	case cmdRead:
		switch {
		case r.flags&^cmdFlagDF != 0 || r.flags != 0 && !t.structured:
			return errInvalid, "a flag that does not apply to reads"
		case !r.within(t.size):
			return errInvalid, fmt.Sprintf("%d bytes at %d leave the export of %d", r.length, r.offset, t.size)
		case r.length > maxPayload && t.structured:
			return errOverflow, fmt.Sprintf("at most %d bytes are read at once", maxPayload)
		case r.length > maxPayload:
			return errInvalid, "" // EOVERFLOW is for structured replies only
		}
	case cmdWrite, cmdTrim, cmdWriteZeroes:
		return errPerm, "the export is read-only"
	case cmdFlush:
		if r.flags != 0 || r.offset != 0 || r.length != 0 {
			return errInvalid, "a flush has no flags, offset or length"
		}
	default:
		return errInvalid, fmt.Sprintf("command %d is not known here", r.command)
	}
	return 0, ""
}

// acquire waits until another request with cost bytes of data may start. It returns false when none may any more. While it
// waits nobody reads from the client, so that one who leaves then is noticed when the next reply is written.
func (t *transmission) acquire(cost int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.stopping && t.broken == nil && (t.requests >= maxRequests || t.bytes > 0 && t.bytes+cost > maxBytes) {
		t.changed.Wait()
	}
	if t.stopping || t.broken != nil {
		return false
	}
	t.requests++
	t.bytes += cost
	return true
}

// serve answers r. A request that must fail comes with the errno and the reason.
func (t *transmission) serve(r *request, errno uint32, text string) {
	switch {
	case errno != 0:
		r.fail(t.structured, errno, text)
	case r.cost == 0: // a flush, or a read of nothing
		r.succeed(t.structured, nil)
	default:
		data := t.stock.get(int(r.cost))
		if err := t.export.Device.ReadAt(t.ctx, data.b, int64(r.offset)); err != nil {
			data.release()
			errno = errnoOf(err)
			r.fail(t.structured, errno, err.Error())
		} else {
			r.succeed(t.structured, data)
		}
	}
	t.count.add(r, errno)
	t.send(r)
}

// send queues r's reply, and writes the queue unless somebody does.
func (t *transmission) send(r *request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = append(t.queue, r)
	if t.writing {
		return
	}
	t.writing = true
	for len(t.queue) > 0 {
		t.takeBatchLocked()
		if t.broken == nil {
			t.mu.Unlock()
			err := t.writeBatch()
			t.mu.Lock()
			if err != nil {
				t.broken = err
				t.cancel()         // nobody will see what is still being read
				_ = t.conn.Close() // wakes the reader
			}
		}
		for _, r := range t.batch {
			r.data.release()
			t.requests--
			t.bytes -= r.cost
		}
		t.changed.Broadcast()
	}
	t.writing = false
	t.changed.Broadcast()
}

// takeBatchLocked moves replies of about maxBatch bytes, at least one, from the queue to the batch.
func (t *transmission) takeBatchLocked() {
	n := 0
	for size := int64(0); n < len(t.queue) && size < maxBatch; n++ {
		size += t.queue[n].cost
	}
	t.batch = append(t.batch[:0], t.queue[:n]...)
	t.queue = slices.Delete(t.queue, 0, n)
}

// writeBatch writes the batch with as few calls as the system allows.
func (t *transmission) writeBatch() error {
	t.parts = t.parts[:0]
	for _, r := range t.batch {
		t.parts = append(t.parts, r.reply)
		if r.data != nil {
			t.parts = append(t.parts, r.data.b)
		}
	}
	t.rest = t.parts // WriteTo consumes what it is called on
	if _, err := t.rest.WriteTo(t.conn); err != nil {
		return fmt.Errorf("write reply: %w", err)
	}
	return nil
}
