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
	t.queued += r.dataLength()
	t.lead.judge(r)
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
	t.writing = false
	t.changed.Broadcast()
}

// takeBatchLocked moves replies of about maxBatch bytes, at least one, from the queue to the batch.
func (t *transmission) takeBatchLocked() {
	n, size := 0, int64(0)
	for ; n < len(t.queue) && size < maxBatch; n++ {
		size += t.queue[n].dataLength()
	}
	t.queued -= size
	t.batch = append(t.batch[:0], t.queue[:n]...)
	t.queue = slices.Delete(t.queue, 0, n)
}

// dataLength is how many bytes of data r's reply has.
func (r *request) dataLength() int64 {
	if r.data == nil {
		return int64(len(r.reply))
	}
	return int64(len(r.data.b))
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
	t.rest = t.parts // writing consumes what it is called on
	if err := t.writeBuffers(&t.rest); err != nil {
		return fmt.Errorf("write reply: %w", err)
	}
	return nil
}

// writeBuffers writes all of b. It goes on as long as the client takes anything before it counts as idle.
func (t *transmission) writeBuffers(b *net.Buffers) error {
	if c, ok := t.conn.(*tlsConn); ok {
		return c.writeBuffers(b, t.waiting)
	}
	for {
		t.waiting()
		n, err := b.WriteTo(t.conn)
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
