package nbd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"syscall"
)

// Client is an export of a server, as a device: with the methods that the server announced support for it does what their
// names say, with the others it fails at once with an error that wraps errors.ErrUnsupported. All methods may be called
// from many goroutines at once; requests are on the way together, and each waits only for its own reply.
//
// Offsets, lengths and sizes of requests are free within the export. Larger ones than the server takes are cut, and go out
// together. Where the server has a minimum block size, reads, prefetches and block statuses are widened to it, trims are
// narrowed, and of writes and zeroes the blocks at the edges are read, changed and written back, while no other write of
// this client is under way. Another client's write to the rest of such a block at that moment can be undone by this.
//
// A method whose context ends returns at once with the context's error, and its buffer is not touched any more. The
// connection goes on. A write given up like this may be carried out or not.
//
// When a connection breaks, and DialConfig.Reconnect allows it, all connections are opened again, and what was under way is
// asked again; callers notice only the time it takes. For writes, zeroes and trims this means that, until the call returns,
// their bytes may be written at any time, even twice. That changes nothing unless another call writes the same bytes at the
// same time, where either may win anyway. Writes that were answered, but not flushed when the connection broke, may be
// lost with the server, and reads may then return what was there before. Flush tells: if there were any such writes, the
// flushes that were under way or else the next one fail with ErrWritesLost, once. With DialConfig.Replay they are not lost:
// they are written again before anything else is asked. The client fails for good when the server does not come back in time, comes back with another
// size or with less than before, or breaks the protocol.
type Client struct {
	name   string // the URI, for errors
	config DialConfig
	open   func(context.Context) (*handshake, error)
	first  agreement // of the first connection; what later ones must be at least
	edges  *edgeLock // nil where any offset will do

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // reconnecting, and links that are ending

	mu         sync.Mutex    // guards what follows
	generation int           // how many times all links were replaced
	links      []*link       // empty while there is no connection
	back       chan struct{} // closed when links are there again or dead is set; nil while links are there
	dead       error         // why the client failed for good
	answered   uint64        // writes of this generation that were answered
	flushed    uint64        // of these, those that a flush covered
	inDoubt    bool          // writes may be lost, and nobody knows
	doubtful   int           // the generation that ended with writes in doubt, -1 for none
	broken     error         // why a link ended that was not in links yet

	log         *unflushed // nil without DialConfig.Replay; itself set once
	flushing    bool       // in the background, to make room in log
	flushFailed error      // the last time
	owed        error      // for the next Flush to fail with
	debt        error      // the last that was owed
	debts       int        // how many were
}

// newClient opens the first connections.
func newClient(ctx context.Context, name string, config DialConfig, open func(context.Context) (*handshake, error)) (*Client, error) {
	c := &Client{name: name, config: config, open: open, doubtful: -1}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	links, err := c.connect(ctx, 0)
	if err != nil {
		c.cancel()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if c.first.info.MinBlock > 1 {
		c.edges = newEdgeLock()
	}
	if config.Replay > 0 && !c.first.info.ReadOnly {
		if err := c.first.canReplay(config.Replay); err != nil {
			c.cancel()
			for _, l := range links {
				_ = l.socket.Close()
			}
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		c.log = newUnflushed(config.Replay, c.block())
	}
	c.mu.Lock()
	c.links = links
	c.mu.Unlock()
	for _, l := range links {
		l.start()
	}
	return c, nil
}

// Size is the export's length in bytes. It does not change.
func (c *Client) Size() int64 { return c.first.info.Size }

// Info is what was agreed on with the server.
func (c *Client) Info() ClientInfo {
	info := ClientInfo{ExportInfo: c.first.info, Replies: c.first.form.String(), TLS: c.first.tls}
	info.Contexts = slices.Clone(info.Contexts)
	c.mu.Lock()
	info.Connections = len(c.links)
	c.mu.Unlock()
	return info
}

// Close says goodbye to the server and returns when the last goroutine is gone. Calls under way fail; wait for them first.
// It does not flush. Closing again does nothing.
func (c *Client) Close() error {
	c.mu.Lock()
	links := c.links
	c.failLocked(net.ErrClosed)
	c.mu.Unlock()
	c.cancel()
	for _, l := range links {
		c.wg.Go(l.goodbye)
	}
	c.wg.Wait()
	return nil
}

// failLocked makes everything fail from now on.
func (c *Client) failLocked(err error) {
	if c.dead == nil {
		c.dead = err
	}
	c.links = nil
	if c.back != nil {
		close(c.back)
		c.back = nil
	}
}

// within checks that n bytes at off are in the export.
func (c *Client) within(verb string, off, n int64) error {
	if off < 0 || n < 0 || off > c.Size() || n > c.Size()-off {
		return c.failed(fmt.Errorf("%s %d bytes at %d: the export has %d: %w", verb, n, off, c.Size(), syscall.EINVAL))
	}
	return nil
}

// failed says whose error err is.
func (c *Client) failed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", c.name, err)
}

// need returns an error unless the server has what a method needs.
func (c *Client) need(has bool, what string) error {
	if !has {
		return c.failed(&lackError{"the server does not support " + what, syscall.ENOTSUP})
	}
	return nil
}

// writable returns an error when nothing can be written.
func (c *Client) writable() error {
	if c.first.info.ReadOnly {
		return c.failed(&lackError{"the export is read-only", syscall.EROFS})
	}
	return nil
}

// ReadAt fills p with the bytes at off.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := c.within("read", off, int64(len(p))); err != nil {
		return err
	}
	if len(p) == 0 {
		return nil
	}
	if !c.aligned(off, int64(len(p))) {
		return c.failed(c.readWide(ctx, p, off))
	}
	return c.failed(c.read(ctx, p, off))
}

// WriteAt writes p at off. p is not touched after it returned. With fua the bytes are on stable storage then; where the server
// does not know FUA, this is a write and a flush. The server may have written all, some or none of p when it fails.
func (c *Client) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	if err := errors.Join(c.writable(), c.canForce(fua)); err != nil {
		return err
	}
	if err := c.within("write", off, int64(len(p))); err != nil {
		return err
	}
	if len(p) == 0 {
		return nil
	}
	return c.failed(c.forced(ctx, fua, func(flags uint16) error {
		return c.change(ctx, off, int64(len(p)), func(off, at, n int64) error {
			return c.write(ctx, p[at:at+n], off, flags)
		}, func(block []byte, at, n int64) {
			copy(block, p[at:at+n])
		}, flags)
	}))
}

// Flush returns when everything that was answered before it began is on stable storage. See Client for ErrWritesLost.
func (c *Client) Flush(ctx context.Context) error {
	if err := c.need(c.first.info.Flush, "flushing"); err != nil {
		return err
	}
	return c.failed(c.flush(ctx))
}

// Trim tells the server that n bytes at off are not needed any more. What they read as afterwards is anything.
func (c *Client) Trim(ctx context.Context, off, n int64, fua bool) error {
	if err := errors.Join(c.writable(), c.need(c.first.info.Trim, "trimming"), c.canForce(fua)); err != nil {
		return err
	}
	if err := c.within("trim", off, n); err != nil {
		return err
	}
	from, to := c.narrow(off, n)
	if from >= to {
		return nil
	}
	return c.failed(c.forced(ctx, fua, func(flags uint16) error {
		return c.exclude(ctx, false, func() error { return c.effect(ctx, cmdTrim, flags, from, to-from) })
	}))
}

// WriteZeroes makes n bytes at off read as zero. hole allows the server to give the space back; fast makes it fail at once,
// with an error that wraps errors.ErrUnsupported, rather than be as slow as writing.
func (c *Client) WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error {
	if err := errors.Join(c.writable(), c.need(c.first.info.WriteZeroes, "writing zeroes"), c.canForce(fua)); err != nil {
		return err
	}
	if err := c.within("zero", off, n); err != nil {
		return err
	}
	from, to := c.narrow(off, n)
	if err := c.need(!fast || c.first.info.FastZero && (c.aligned(off, n) || from < to), "zeroing this fast"); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	return c.failed(c.forced(ctx, fua, func(flags uint16) error {
		more := flags
		if !hole {
			more |= cmdFlagNoHole
		}
		if fast {
			more |= cmdFlagFastZero
		}
		return c.change(ctx, off, n, func(off, _, n int64) error {
			return c.effect(ctx, cmdWriteZeroes, more, off, n)
		}, func(block []byte, _, _ int64) {
			clear(block)
		}, flags)
	}))
}

// Prefetch tells the server that n bytes at off will be read soon.
func (c *Client) Prefetch(ctx context.Context, off, n int64) error {
	if err := c.need(c.first.info.Cache, "prefetching"); err != nil {
		return err
	}
	if err := c.within("prefetch", off, n); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	from, to := c.widen(off, n)
	return c.failed(c.effect(ctx, cmdCache, 0, from, to-from))
}

// Extents calls yield with the extents of n bytes at off, in order and without gaps, until it returns false: hole where
// nothing is allocated, zero where the bytes read as zero. The last one may reach beyond. It needs the context
// base:allocation.
func (c *Client) Extents(ctx context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error {
	return c.BlockStatus(ctx, ContextAllocation, off, n, func(n int64, status uint64) bool {
		return yield(n, status&stateHole != 0, status&stateZero != 0)
	})
}

// BlockStatus calls yield with the extents of n bytes at off, in order and without gaps, and what the metadata context says
// of each, until it returns false. The last one may reach beyond. The server decides where extents end: neighbours may
// have the same status. The context must be among those of Info.
func (c *Client) BlockStatus(ctx context.Context, context string, off, n int64, yield func(n int64, status uint64) bool) error {
	if err := c.need(slices.Contains(c.first.info.Contexts, context), fmt.Sprintf("the metadata context %q", context)); err != nil {
		return err
	}
	if err := c.within("get block status of", off, n); err != nil {
		return err
	}
	for pos, end := off, off+n; pos < end; {
		extents, first, err := c.status(ctx, context, pos, end)
		if err != nil {
			return c.failed(err)
		}
		before := pos
		for _, e := range extents {
			// The first may begin before, the last end after the export.
			to := first + int64(min(e.length, uint64(c.Size()-first)))
			if first = to; to <= pos {
				continue
			}
			if !yield(to-pos, e.status) {
				return nil
			}
			if pos = to; pos >= end {
				break
			}
		}
		if pos == before {
			return c.failed(lies("a block status that ends before the block at %d does", pos))
		}
	}
	return nil
}

// mostEffect is how many bytes one request without data may be about.
func (c *Client) mostEffect() int64 {
	if c.first.form == formExtended {
		return math.MaxInt64 &^ (maxPayload - 1)
	}
	return 1 << 30
}
