package nbd

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// What one connection may keep busy. When either limit is reached nothing more is read from the client until replies have
// gone out, so a client that sends much and reads nothing waits for itself.
const (
	// maxRequests is twice the queue of the deepest common client, Linux's nbd driver (128).
	maxRequests = 256
	// maxBytes bounds the memory of a connection's buffers. It is what nbdcopy, which asks for the most at once, has under way.
	// A larger request is served when it is alone.
	maxBytes = 16 << 20
	// maxDiscard is the most data of a wrong request that is read to be thrown away. Who announces more than that, four times
	// what is allowed, is hung up on.
	maxDiscard = 256 << 20
)

// transmission is the second phase of a connection, in which the client reads and writes.
//
// One goroutine at a time is the leader: it reads requests. What is in memory it reads itself, without waiting
// (resident_linux.go). Other large reads, and requests that may be slow, get a goroutine of their own, which queues the reply.
// A leader that has read the data of a large write makes another goroutine the leader and writes it. While the device proves
// quick, the leader itself writes, and serves small reads, and writes their replies together when it has to wait for the next
// request: a goroutine for each would cost more than the request. It does the same with large reads where help would not
// pay. If it gets stuck in one of them another goroutine becomes the leader (lead.go).
//
// Whoever queues a reply while nobody writes becomes the writer, and writes what is queued until nothing is: a lone reply
// goes out without waking another goroutine, and replies that pile up behind a slow connection share a call (send.go).
type transmission struct {
	session
	conn  net.Conn
	ahead []byte        // what was read from conn before the transmission
	r     *bufio.Reader // the leader's, for the headers of requests
	lean  bool          // the leader's: data that is too much for r follows the next header, too, presumably
	stock *buffers
	count *counters
	size  int64
	// splicer is nil where replies have to be copied.
	splicer *splicer
	// resident, which is the leader's, is nil where nobody knows what of the device is in memory.
	resident *resident
	outgoing sendQueue     // the leader's
	idle     time.Duration // how long a client without requests may be silent; 0: for ever

	// ctx ends when no reply can be delivered any more; cancel ends it.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // all goroutines but run's
	ended  chan struct{}  // closed when the last request was read

	mu       sync.Mutex // guards what follows; it is never held while waiting for the device or the client
	changed  sync.Cond  // on mu: requests or bytes fell, or stopping or broken were set
	requests int        // read but not answered
	bytes    int64      // of data in those requests
	quiet    time.Time  // when the last one was answered, if idle is set
	taking   bool       // the leader reads the data of a request, which is one of those
	stopping bool       // no more requests are to be read
	final    bool       // the deadline for writing is not to be moved any more
	err      error      // why requests ended, when it was not the client's or stop's wish
	lead     leadership
	queue    []*request // answered, to be written
	queued   int64      // bytes of data in queue
	writing  bool       // somebody is in writeLocked
	broken   error      // why nothing can be written any more

	batch []*request  // the writer's: taken from queue
	parts net.Buffers // the writer's: what batch consists of
	rest  net.Buffers // the writer's: what of parts is to be written
}

// newTransmission returns the transmission phase of conn. ahead is what was read of it already, and is the
// transmission's from then on.
func newTransmission(ctx context.Context, s session, conn net.Conn, ahead []byte, server *Server) *transmission {
	t := &transmission{
		session:  s,
		conn:     conn,
		ahead:    ahead,
		stock:    &server.stock,
		count:    &server.count,
		size:     s.export.Device.Size(),
		splicer:  newSplicer(s.export.Device, conn),
		resident: newResident(s.export.Device),
		outgoing: newSendQueue(conn),
		idle:     cmp.Or(s.export.IdleTimeout, server.config.IdleTimeout),
		ended:    make(chan struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(ctx)
	t.changed.L = &t.mu
	t.r = bufio.NewReaderSize(headers{t}, readAhead)
	return t
}

// run serves requests until the client disconnects, the stream breaks, or stop is called. It then waits for the requests
// under way; those of a client that is still there get as long as grace to be answered.
func (t *transmission) run(grace time.Duration) error {
	defer t.cancel()
	t.follow(0)
	<-t.ended
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		timer := time.AfterFunc(grace, func() { t.hurry(grace) })
		defer timer.Stop()
	} else {
		t.cancel()
		_ = t.conn.Close() // wakes the writer
	}
	for t.requests > 0 || t.writing {
		t.changed.Wait()
	}
	t.unwatch()
	t.splicer.close()
	t.mu.Unlock()
	t.wg.Wait()
	t.mu.Lock()
	if t.err != nil {
		return t.err
	}
	return t.broken
}

// hurry cuts short what is under way. The replies that this makes, of ESHUTDOWN, get as long as grace to leave.
func (t *transmission) hurry(grace time.Duration) {
	t.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.final = true
	_ = t.conn.SetWriteDeadline(time.Now().Add(grace))
}

// stop makes run read no more requests.
func (t *transmission) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopping = true
	t.changed.Broadcast()
	_ = t.conn.SetReadDeadline(time.Now())
}

// receive reads the next request, with its data if that is wanted, and the error number that it deserves with the reason.
// It returns nil when there are none any more.
func (t *transmission) receive() (r *request, errno uint32, text string, err error) {
	n := t.headerLength()
	head, err := t.r.Peek(n)
	if err != nil {
		return nil, 0, "", t.readError(err)
	}
	r = t.stock.request()
	if err := r.decode(head, t.extended()); err != nil {
		return nil, 0, "", err
	}
	_, _ = t.r.Discard(n) // cannot fail: they were peeked at
	if r.command == cmdDisconnect {
		return nil, 0, "", nil
	}
	if r.payload > maxDiscard {
		return nil, 0, "", fmt.Errorf("read request: %d bytes of data: %w", r.payload, errBroken)
	}

	r.contexts = t.contexts
	if r.command == cmdBlockStatus && r.payload > 0 {
		if errno, text, err = t.readFilter(r); err != nil {
			return nil, 0, "", t.readError(err)
		}
	}
	if errno == 0 {
		errno, text = t.check(r)
	}
	if errno != 0 {
		if err := t.discard(int(r.payload)); err != nil {
			return nil, 0, "", t.readError(err)
		}
	} else {
		r.cost = t.cost(r)
		if r.command == cmdRead {
			t.outgoing.fit(uint64(r.length))
		}
	}
	if !t.acquire(r.cost) {
		return nil, 0, "", nil
	}
	if errno == 0 && r.payload > 0 {
		if err := t.take(r); err != nil {
			t.abandon(r)
			return nil, 0, "", t.readError(err)
		}
	}
	return r, errno, text, nil
}

// headerLength is the length of a request's header.
func (t *transmission) headerLength() int {
	if t.extended() {
		return lenExtendedRequestHeader
	}
	return lenRequestHeader
}

// cost is how many bytes of memory the data of r and of its reply take.
func (t *transmission) cost(r *request) int64 {
	switch r.command {
	case cmdRead, cmdWrite:
		return int64(r.length)
	case cmdBlockStatus:
		return int64(len(r.contexts)) * maxExtents * lenExtent
	}
	return 0
}

// take reads the data that r writes.
func (t *transmission) take(r *request) error {
	r.data = t.stock.get(int(r.payload))
	t.mu.Lock()
	t.taking = true
	t.mu.Unlock()
	err := t.readFull(r.data.b)
	t.mu.Lock()
	t.taking = false
	t.mu.Unlock()
	return err
}

// readFull fills b from the client.
func (t *transmission) readFull(b []byte) error {
	t.flushAside(len(b))
	t.lean = len(b) > t.r.Size()/2
	n, _ := t.r.Read(b[:min(len(b), t.r.Buffered())])
	for n < len(b) {
		m, err := t.readSome(b[n:], true)
		if err != nil {
			return err
		}
		n += m
	}
	return nil
}

// discard reads n bytes from the client and forgets them.
func (t *transmission) discard(n int) error {
	t.flushAside(n)
	_, err := t.r.Discard(n)
	return err
}

// headers reads for t.r. Behind the header of a large write it leaves the data where it is: that would have to be copied.
type headers struct{ t *transmission }

func (h headers) Read(p []byte) (int, error) {
	if h.t.lean {
		p = p[:min(len(p), h.t.headerLength())]
	}
	return h.t.readSome(p, false)
}

// readSome reads from the client. With all it would rather wait for all of p than read a part. It fails when the client is
// silent for too long while it waits for nothing.
func (t *transmission) readSome(p []byte, all bool) (int, error) {
	if len(t.ahead) > 0 {
		n := copy(p, t.ahead)
		t.ahead = t.ahead[n:]
		return n, nil
	}
	read := t.conn.Read
	if c, ok := t.conn.(interface{ ReadFull(p []byte) (int, error) }); ok && all {
		read = c.ReadFull
	}
	if t.idle == 0 {
		return read(p)
	}
	for begin := time.Now(); t.patient(begin); {
		n, err := read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
	return 0, os.ErrDeadlineExceeded
}

// patient says whether to wait for a client that has been silent since begin, and sets the deadline. Silence is counted
// from when the last request was answered, if that is later.
func (t *transmission) patient(begin time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	switch {
	case t.stopping:
		return false
	case t.requests > 1 || t.requests > 0 && !t.taking:
		begin = now
	case t.quiet.After(begin):
		begin = t.quiet
	}
	until := begin.Add(t.idle)
	_ = t.conn.SetReadDeadline(until) // if it fails, so does the read
	return until.After(now)
}

// readError is the error with which reading ends: nil after stop.
func (t *transmission) readError(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.stopping || t.broken != nil:
		return nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("read request: nothing came for %v", t.idle)
	}
	return fmt.Errorf("read request: %w", err)
}

// acquire waits until another request with cost bytes of data may start. It returns false when none may any more. While it
// waits nobody reads from the client, so that one who leaves then is noticed when the next reply is written.
func (t *transmission) acquire(cost int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.stopping && t.broken == nil && (t.requests >= maxRequests || t.bytes > 0 && t.bytes+cost > maxBytes) {
		if !t.writing && len(t.queue) > 0 {
			t.writeLocked()
			continue
		}
		t.changed.Wait()
	}
	if t.stopping || t.broken != nil {
		return false
	}
	t.requests++
	t.bytes += cost
	return true
}

// abandon gives up a request whose data did not come.
func (t *transmission) abandon(r *request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.finishLocked(r)
}

// finishLocked gives back what r holds.
func (t *transmission) finishLocked(r *request) {
	t.requests--
	t.bytes -= r.cost
	if t.idle > 0 {
		t.quiet = time.Now()
	}
	t.changed.Broadcast()
	r.data.release()
	t.splicer.give(r.pipe)
	if r.piped {
		t.lead.piped--
		t.employLocked()
	}
	t.stock.recycle(r)
}
