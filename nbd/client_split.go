package nbd

import (
	"context"
	"errors"
	"math"
	"sync"
	"syscall"
)

// maxPieces is how many parts of one cut request are under way together: enough to keep a connection busy, few enough
// that other requests get their turn.
const maxPieces = 8

// block is the smallest unit on the wire.
func (c *Client) block() int64 { return int64(c.first.info.MinBlock) }

// aligned says whether a request fits the server's minimum block size. The last block of an export whose size does not may
// be cut short: there is no other way to get at it.
func (c *Client) aligned(off, n int64) bool {
	mask := c.block() - 1
	return off&mask == 0 && ((off+n)&mask == 0 || off+n == c.Size())
}

// widen returns the blocks that n bytes at off touch.
func (c *Client) widen(off, n int64) (from, to int64) {
	mask := c.block() - 1
	return off &^ mask, min(c.Size(), saturated(off+n, mask)&^mask)
}

// narrow returns the blocks that lie within n bytes at off; none when from is not below to.
func (c *Client) narrow(off, n int64) (from, to int64) {
	mask := c.block() - 1
	from, to = saturated(off, mask)&^mask, off+n
	if to != c.Size() {
		to &^= mask
	}
	return from, to
}

// saturated is a+b, or the most there is.
func saturated(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// payload is how many bytes of data one request may have. More than 32 MiB gain nothing.
func (c *Client) payload() int64 {
	most := int64(min(c.first.info.MaxPayload, maxPayload))
	if c.log != nil {
		most = min(most, c.log.limit/replayShare)
	}
	return most &^ (c.block() - 1)
}

// pieces calls request for n bytes at off in pieces of at most most bytes, several together. It returns the first error, after
// which no more are begun; those under way are given up.
func (c *Client) pieces(ctx context.Context, off, n, most int64, request func(ctx context.Context, off, at, n int64) error) error {
	if n <= most {
		return request(ctx, off, 0, n)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	room := make(chan struct{}, maxPieces)
	failed := make(chan error, 1) // the first one
	var wg sync.WaitGroup
	for at := int64(0); at < n && ctx.Err() == nil; at += most {
		room <- struct{}{}
		wg.Go(func() {
			if err := request(ctx, off+at, at, min(most, n-at)); err != nil {
				select {
				case failed <- err:
				default:
				}
				cancel()
			}
			<-room
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return ctx.Err()
	}
}

// read fills p, which fits the block size.
func (c *Client) read(ctx context.Context, p []byte, off int64) error {
	return c.pieces(ctx, off, int64(len(p)), c.payload(), func(ctx context.Context, off, at, n int64) error {
		_, _, err := c.do(ctx, call{command: cmdRead, offset: uint64(off), length: uint64(n), data: p[at : at+n]})
		return err
	})
}

// readWide fills p, which does not fit the block size: the blocks at its edges are read aside.
func (c *Client) readWide(ctx context.Context, p []byte, off int64) error {
	from, to := c.widen(off, int64(len(p)))
	if to-from <= 4*c.block() { // not worth three requests
		wide := make([]byte, to-from)
		if err := c.read(ctx, wide, from); err != nil {
			return err
		}
		copy(p, wide[off-from:])
		return nil
	}
	return c.edged(off, int64(len(p)), func(block, at, n int64) error {
		edge := make([]byte, min(c.block(), c.Size()-block))
		if err := c.read(ctx, edge, block); err != nil {
			return err
		}
		copy(p[at:at+n], edge[off+at-block:])
		return nil
	}, func(off, at, n int64) error {
		return c.read(ctx, p[at:at+n], off)
	})
}

// edged calls edge for the first and the last block of n bytes at off if they are not whole, and middle for those between. The
// bytes meant are n at at from off; edge is told where its block begins.
func (c *Client) edged(off, n int64, edge func(block, at, n int64) error, middle func(off, at, n int64) error) error {
	from, to := c.narrow(off, n)
	end := off + n
	if from > to { // within one block
		return edge(off&^(c.block()-1), 0, n)
	}
	if from < to {
		if err := middle(from, from-off, to-from); err != nil {
			return err
		}
	}
	if off < from {
		if err := edge(from-c.block(), 0, from-off); err != nil {
			return err
		}
	}
	if to < end {
		return edge(to, to-off, end-to)
	}
	return nil
}

// change writes n bytes at off of any alignment: whole blocks with middle, and parts of blocks by reading them, changing them
// with edge, and writing them back with flags. at is from off.
func (c *Client) change(ctx context.Context, off, n int64, middle func(off, at, n int64) error, edge func(part []byte, at, n int64), flags uint16) error {
	if c.aligned(off, n) {
		return c.exclude(ctx, false, func() error { return middle(off, 0, n) })
	}
	return c.exclude(ctx, true, func() error {
		return c.edged(off, n, func(block, at, n int64) error {
			whole := make([]byte, min(c.block(), c.Size()-block))
			if err := c.read(ctx, whole, block); err != nil {
				return err
			}
			part := off + at - block
			edge(whole[part:part+n], at, n)
			return c.write(ctx, whole, block, flags)
		}, middle)
	})
}

// exclude runs a write. Those that read and write back parts of blocks, alone, have the export for themselves.
func (c *Client) exclude(ctx context.Context, alone bool, write func() error) error {
	if c.edges == nil {
		return write()
	}
	if err := c.edges.lock(ctx, alone); err != nil {
		return err
	}
	defer c.edges.unlock(alone)
	return write()
}

// write writes p, which fits the block size.
func (c *Client) write(ctx context.Context, p []byte, off int64, flags uint16) error {
	return c.pieces(ctx, off, int64(len(p)), c.payload(), func(ctx context.Context, off, at, n int64) error {
		return c.noted(ctx, call{command: cmdWrite, flags: flags, offset: uint64(off), length: uint64(n), data: p[at : at+n]})
	})
}

// noted carries out a write, and notes for flushes that it was answered.
func (c *Client) noted(ctx context.Context, request call) error {
	if c.log != nil && request.command != cmdCache {
		return c.keep(ctx, request)
	}
	_, generation, err := c.do(ctx, request)
	if err == nil && request.command != cmdCache && request.flags&cmdFlagFUA == 0 {
		c.wrote(generation)
	}
	return err
}

// effect carries out a request without data that fits the block size. Should the server find it too large, smaller ones are tried.
func (c *Client) effect(ctx context.Context, command, flags uint16, off, n int64) error {
	return c.pieces(ctx, off, n, c.mostEffect(), func(ctx context.Context, off, _, n int64) error {
		send := func(ctx context.Context, off, _, n int64) error {
			return c.noted(ctx, call{command: command, flags: flags, offset: uint64(off), length: uint64(n)})
		}
		err := send(ctx, off, 0, n)
		if n > c.payload() && (errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOVERFLOW)) {
			return c.pieces(ctx, off, n, c.payload(), send)
		}
		return err
	})
}

// status asks what a context says from pos on, if possible up to end. It returns where the first extent begins.
func (c *Client) status(ctx context.Context, name string, pos, end int64) (extents []statusExtent, first int64, err error) {
	from, to := c.widen(pos, end-pos)
	n := min(to-from, c.mostEffect())
	answered, _, err := c.do(ctx, call{command: cmdBlockStatus, offset: uint64(from), length: uint64(n), context: name})
	if err != nil {
		return nil, 0, err
	}
	return answered.extents, from, nil
}

// canForce returns an error when writes cannot be forced to stable storage.
func (c *Client) canForce(fua bool) error {
	return c.need(!fua || c.first.info.FUA || c.first.info.Flush, "forcing writes to stable storage")
}

// forced carries out a write with the flags that fua needs, and with a flush after it where there is no such flag.
func (c *Client) forced(ctx context.Context, fua bool, write func(flags uint16) error) error {
	switch {
	case !fua:
		return write(0)
	case c.first.info.FUA:
		return write(cmdFlagFUA)
	}
	if err := write(0); err != nil {
		return err
	}
	return c.flush(ctx)
}

// edgeLock lets many writes in together, or one alone. Unlike a sync.RWMutex it can be waited for within a context.
type edgeLock struct {
	turn  chan struct{} // held while getting in
	inner chan struct{} // one token for each that is in; all of them are taken by one that is alone
}

// maxTogether is how many writes run together where blocks have to be protected.
const maxTogether = 256

func newEdgeLock() *edgeLock {
	return &edgeLock{turn: make(chan struct{}, 1), inner: make(chan struct{}, maxTogether)}
}

func (e *edgeLock) lock(ctx context.Context, alone bool) error {
	select {
	case e.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-e.turn }()
	want := 1
	if alone {
		want = maxTogether
	}
	for got := range want {
		select {
		case e.inner <- struct{}{}:
		case <-ctx.Done():
			for range got {
				<-e.inner
			}
			return ctx.Err()
		}
	}
	return nil
}

func (e *edgeLock) unlock(alone bool) {
	<-e.inner
	if alone {
		for range maxTogether - 1 {
			<-e.inner
		}
	}
}
