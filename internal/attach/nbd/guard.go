//go:build linux

package nbd

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/dnbd/dnbd/block"
	"golang.org/x/sys/unix"
)

// calls are the requests under way, over all connections of a device.
type calls struct {
	mu       sync.Mutex // guards what follows
	ended    sync.Cond  // on mu: a request that changes something ended
	pending  map[*call]struct{}
	requests uint64 // that were answered
	errors   uint64 // of these, those that failed
}

// call is a request under way.
type call struct {
	block.Request
	begun time.Time
}

func newCalls() *calls {
	c := &calls{pending: make(map[*call]struct{})}
	c.ended.L = &c.mu
	return c
}

// begin enters a request. One that changes bytes first waits for those that change any of the same.
func (c *calls) begin(r block.Request) *call {
	n := &call{r, time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	for r.Op.Changes() && c.overlapsLocked(r) {
		c.ended.Wait()
	}
	c.pending[n] = struct{}{}
	return n
}

func (c *calls) overlapsLocked(r block.Request) bool {
	for other := range c.pending {
		if other.Op.Changes() && r.Off < other.Off+other.Len && other.Off < r.Off+r.Len {
			return true
		}
	}
	return false
}

// end takes a request out. One that was given up is not counted: it will be sent again.
func (c *calls) end(n *call, err error, gaveUp bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, n)
	if !gaveUp {
		c.requests++
		if err != nil {
			c.errors++
		}
	}
	if n.Op.Changes() {
		c.ended.Broadcast()
	}
}

// count returns the requests that were answered and those that failed, how many are under way, and the age of the oldest.
func (c *calls) count() (requests, errors uint64, pending int, oldest time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for n := range c.pending {
		oldest = max(oldest, now.Sub(n.begun))
	}
	return c.requests, c.errors, len(c.pending), oldest
}

// guard returns dev for the requests of one connection, whose end here is conn. See the package's comment.
func (c *calls) guard(dev block.Device, conn syscall.RawConn) block.Device {
	return block.Around(dev, func(ctx context.Context, r block.Request, do func() error) error {
		n := c.begin(r)
		err := errGone
		if !r.Op.Changes() || !hungUp(conn) {
			err = do()
		}
		c.end(n, err, err == errGone || ctx.Err() != nil)
		return err
	})
}

// errGone is the answer, which nobody will hear, to a request whose connection ended before its turn came.
var errGone = fmt.Errorf("the connection of the request ended: %w", unix.ESHUTDOWN)

// hungUp says whether the other end of a connection, or this one, has ended it, even if there still is something to be read.
func hungUp(conn syscall.RawConn) bool {
	gone := false
	err := conn.Control(func(fd uintptr) { gone = ended(int(fd), 0) })
	return err != nil || gone
}
