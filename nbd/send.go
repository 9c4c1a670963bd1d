package nbd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"
)

// maxBatch is how many bytes are written with one call before their buffers are free for the next requests: enough to make
// the calls' cost vanish.
const maxBatch = 1 << 20

// queueLocked queues r's reply.
func (t *transmission) queueLocked(r *request) {
	t.queue = append(t.queue, r)
	t.queued += r.weight()
	t.lead.judge(r)
	if r.piped {
		t.lead.serving--
		t.lead.served++
	}
}

// send queues r's reply, and writes the queue unless somebody does.
func (t *transmission) send(r *request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queueLocked(r)
	if !t.writing {
		t.writeLocked()
	}
}

// write writes the queue unless somebody does.
func (t *transmission) write() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.writing {
		t.writeLocked()
	}
}

// writeLocked writes the queue until it is empty. It gives up mu meanwhile.
func (t *transmission) writeLocked() {
	t.writing = true
	for len(t.queue) > 0 {
		t.writeSomeLocked()
	}
	t.writing = false
	t.changed.Broadcast()
}

// writeSomeLocked writes a part of the queue, which is not empty. It gives up mu meanwhile.
func (t *transmission) writeSomeLocked() {
	t.takeBatchLocked()
	if t.broken == nil {
		t.mu.Unlock()
		err := t.writeBatch()
		t.mu.Lock()
		if err != nil {
			t.broken = err
			t.cancel()         // nobody will see what is still being done
			_ = t.conn.Close() // wakes the reader
		}
	}
	for _, r := range t.batch {
		t.finishLocked(r)
	}
}

// takeBatchLocked moves replies of about maxBatch bytes, at least one, from the queue to the batch.
func (t *transmission) takeBatchLocked() {
	n, size := 0, int64(0)
	for ; n < len(t.queue) && size < maxBatch; n++ {
		size += t.queue[n].weight()
	}
	t.queued -= size
	t.batch = append(t.batch[:0], t.queue[:n]...)
	t.queue = slices.Delete(t.queue, 0, n)
}

// read is how many bytes of data r's reply has.
func (r *request) read() int64 {
	if r.data != nil {
		return int64(len(r.data.b))
	}
	return r.pipe.length()
}

// weight is how many bytes r's reply is counted for.
func (r *request) weight() int64 { return max(r.read(), int64(len(r.reply))) }

// writeBatch writes the batch with as few calls as the system allows.
func (t *transmission) writeBatch() error {
	t.parts = t.parts[:0]
	for _, r := range t.batch {
		t.parts = append(t.parts, r.reply)
		if r.data != nil {
			t.parts = append(t.parts, r.data.b)
		}
		if r.pipe == nil {
			continue
		}
		if err := t.writeParts(); err != nil {
			return err
		}
		if err := t.persist(func() (int64, error) { return t.splicer.unload(r.pipe) }); err != nil {
			return fmt.Errorf("write reply: %w", err)
		}
	}
	return t.writeParts()
}

// writeParts writes t.parts and empties it.
func (t *transmission) writeParts() error {
	if len(t.parts) == 0 {
		return nil
	}
	t.rest = t.parts // writing consumes what it is called on
	t.parts = t.parts[:0]
	if err := t.writeBuffers(&t.rest); err != nil {
		return fmt.Errorf("write reply: %w", err)
	}
	return nil
}

// writeBuffers writes all of b.
func (t *transmission) writeBuffers(b *net.Buffers) error {
	if c, ok := t.conn.(*tlsConn); ok {
		return c.writeBuffers(b, t.persist)
	}
	if c, ok := t.conn.(interface {
		writeBuffers(*net.Buffers) (int64, error)
	}); ok {
		return t.persist(func() (int64, error) { return c.writeBuffers(b) })
	}
	return t.persist(func() (int64, error) { return b.WriteTo(t.conn) })
}

// consume takes the first n bytes from b.
func consume(b *net.Buffers, n int) {
	for len(*b) > 0 && n >= len((*b)[0]) {
		n -= len((*b)[0])
		(*b)[0] = nil
		*b = (*b)[1:]
	}
	if n > 0 {
		(*b)[0] = (*b)[0][n:]
	}
}

// persist calls write, which returns how much it has written, until it is done. It goes on as long as the client takes
// anything before it counts as idle.
func (t *transmission) persist(write func() (int64, error)) error {
	for {
		t.waiting()
		n, err := write()
		if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) || t.isFinal() {
			return err
		}
	}
}

// waiting sets the time until which the client must have taken something.
func (t *transmission) waiting() {
	if t.idle == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.final {
		_ = t.conn.SetWriteDeadline(time.Now().Add(t.idle)) // if it fails, so does the write
	}
}

// isFinal says whether the deadline for writing is the last.
func (t *transmission) isFinal() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.final
}
