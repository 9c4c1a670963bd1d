package nbd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// The pauses between attempts to reconnect grow from the first to the longest.
	firstPause   = 20 * time.Millisecond
	longestPause = time.Second
	// furtherTimeout is how long a server may let connections after the first one wait. Some never answer those that are too
	// many.
	furtherTimeout = 5 * time.Second
)

// errShutdownAnswer ends a connection whose server answered ESHUTDOWN, when another one can be had.
var errShutdownAnswer = errors.New("the server is shutting down")

// connect opens as many connections as there shall be, not started yet. Only the first one must succeed.
func (c *Client) connect(ctx context.Context, generation int) ([]*link, error) {
	h, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	if generation == 0 {
		c.first = h.agreed
	} else if err := c.first.accepts(&h.agreed); err != nil {
		_ = h.socket.Close()
		return nil, err
	}
	links := []*link{newLink(h, generation, c.lost)}
	if !h.agreed.info.MultiConn {
		return links, nil
	}
	ctx, cancel := context.WithTimeout(ctx, furtherTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range c.config.Connections - 1 {
		wg.Go(func() {
			h, err := c.open(ctx)
			if err == nil {
				if err = c.first.accepts(&h.agreed); err != nil {
					_ = h.socket.Close()
				}
			}
			if err != nil {
				c.config.Log.Debug("NBD server turned a further connection away", "uri", c.name, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			links = append(links, newLink(h, generation, c.lost))
		})
	}
	wg.Wait()
	return links, nil
}

// accepts says whether a later connection b is as good as a, the first one: what was cut for a must fit b.
func (a *agreement) accepts(b *agreement) error {
	changed := func(what string, was, is any) error {
		return &changedError{fmt.Sprintf("the export is not what it was: %s was %v and is %v", what, was, is)}
	}
	const may = exportFlush | exportFUA | exportTrim | exportWriteZeroes | exportFastZero | exportCache | exportMultiConn
	switch {
	case a.info.Size != b.info.Size:
		return changed("its size", a.info.Size, b.info.Size)
	case a.info.ReadOnly != b.info.ReadOnly:
		return changed("whether it is read-only", a.info.ReadOnly, b.info.ReadOnly)
	case a.info.Name != b.info.Name:
		return changed("its name", a.info.Name, b.info.Name)
	case a.flags&may&^b.flags != 0:
		return changed("its flags", fmt.Sprintf("0x%x", a.flags), fmt.Sprintf("0x%x", b.flags))
	case a.form != b.form:
		return changed("the form of replies", a.form, b.form)
	case b.info.MinBlock > a.info.MinBlock, b.info.MaxPayload < a.info.MaxPayload:
		return changed("its block sizes", [2]uint32{a.info.MinBlock, a.info.MaxPayload}, [2]uint32{b.info.MinBlock, b.info.MaxPayload})
	}
	for _, name := range a.info.Contexts {
		if !slices.Contains(b.info.Contexts, name) {
			return changed("the metadata contexts", a.info.Contexts, b.info.Contexts)
		}
	}
	return nil
}

// canReplay says whether the server is good enough for DialConfig.Replay.
func (a *agreement) canReplay(limit int64) error {
	switch {
	case !a.info.Flush:
		return &lackError{"replays need a server that supports flushing: all writes would have to be kept", syscall.ENOTSUP}
	case int64(a.info.MinBlock) > limit/replayShare:
		return fmt.Errorf("%d bytes for replays are not enough for a server with blocks of %d: it takes %d", limit, a.info.MinBlock, replayShare*int64(a.info.MinBlock))
	}
	return nil
}

// changedError is what makes it useless to try again to reconnect.
type changedError struct{ text string }

func (e *changedError) Error() string { return e.text }

// final says whether trying again to connect is useless.
func final(err error) bool {
	var changed *changedError
	return errors.As(err, &changed) || errors.Is(err, ErrProtocol) || errors.Is(err, fs.ErrNotExist) && refused(err)
}

// lost is told by a link's reader that the link ended, before the calls on it are.
func (c *Client) lost(l *link, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil || l.generation != c.generation {
		return
	}
	if c.back != nil { // not in use yet
		c.broken = cause
		return
	}
	if c.answered > c.flushed {
		c.inDoubt, c.doubtful = true, c.generation
	}
	c.answered, c.flushed = 0, 0
	c.generation++
	for _, other := range c.links {
		c.wg.Go(func() {
			other.end(cause)
			other.wg.Wait()
		})
	}
	c.links = nil
	if c.config.Reconnect == 0 || errors.Is(cause, ErrProtocol) {
		c.failLocked(&lostError{cause})
		return
	}
	c.back = make(chan struct{})
	c.config.Log.Warn("NBD server lost, trying to reconnect", "uri", c.name, "for", c.config.Reconnect, "err", cause)
	c.wg.Go(func() { c.reconnect(cause) })
}

// reconnect tries to get new links.
func (c *Client) reconnect(cause error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.config.Reconnect)
	defer cancel()
	var err error
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		// nobody else changes generation while there are no links
		var links []*link
		if links, err = c.connect(ctx, c.generation); err == nil {
			if err = c.resume(links); err == nil {
				return
			}
		}
		if final(err) {
			break
		}
		select {
		case <-time.After(pause):
			continue
		case <-ctx.Done():
		}
		break
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil { // closed meanwhile
		return
	}
	err = fmt.Errorf("%w; reconnecting failed: %w", &lostError{cause}, err)
	c.config.Log.Error("NBD server lost for good", "uri", c.name, "err", err)
	c.failLocked(err)
}

// resume puts new links to use, after what they have to replay. They are gone when it fails.
func (c *Client) resume(links []*link) error {
	for _, l := range links {
		l.start()
	}
	err := c.replay(links)
	c.mu.Lock()
	if err == nil {
		err = c.broken
	}
	if err == nil && c.dead == nil {
		defer c.mu.Unlock()
		c.config.Log.Info("NBD server is back", "uri", c.name)
		c.links = links
		close(c.back)
		c.back = nil
		return nil
	}
	if err == nil {
		err = c.dead
	}
	c.broken = nil
	c.generation++ // what these links still tell does not matter
	c.mu.Unlock()
	for _, l := range links {
		l.end(err)
		l.wg.Wait()
	}
	return err
}

// pick returns the link with the least to do, after waiting for one if need be.
func (c *Client) pick(ctx context.Context) (*link, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.mu.Lock()
		dead, back := c.dead, c.back
		var best *link
		least := int64(0)
		for _, l := range c.links {
			if pending := l.pending.Load(); best == nil || pending < least {
				best, least = l, pending
			}
		}
		c.mu.Unlock()
		switch {
		case dead != nil:
			return nil, dead
		case best != nil:
			return best, nil
		}
		select {
		case <-back:
		case <-ctx.Done():
		}
	}
}

// do carries out a request: it is asked again on a new connection when its own broke, but for a flush of what was not
// replayed. It returns the call that was answered, and the generation of its connection.
func (c *Client) do(ctx context.Context, request call) (answered *call, generation int, err error) {
	for {
		l, err := c.pick(ctx)
		if err != nil {
			return nil, c.current(), err
		}
		attempt := request
		attempt.done = make(chan struct{}, 1)
		err = l.do(ctx, &attempt)
		if c.config.Reconnect > 0 && errors.Is(err, syscall.ESHUTDOWN) {
			err = &lostError{errShutdownAnswer}
			l.end(err)
		}
		var lost *lostError
		if !errors.As(err, &lost) || c.config.Reconnect == 0 {
			return &attempt, l.generation, err
		}
		select {
		case <-l.over: // now there is a new one to wait for, or none
		case <-ctx.Done():
			return nil, l.generation, ctx.Err()
		}
		if request.command == cmdFlush && c.log == nil {
			return nil, l.generation, err
		}
	}
}

// current is the generation of the links that there are, or will be.
func (c *Client) current() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

// wrote notes that a write was answered on a connection of a generation.
func (c *Client) wrote(generation int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation == c.generation {
		c.answered++
		return
	}
	// The connection broke just after the answer.
	c.inDoubt, c.doubtful = true, generation
}

// flush asks for everything that was answered to be on stable storage, unless some of it may be lost.
func (c *Client) flush(ctx context.Context) error {
	if c.log != nil {
		return c.flushKept(ctx)
	}
	for {
		c.mu.Lock()
		doubt, covered, began := c.inDoubt, c.answered, c.generation
		c.inDoubt = false
		c.mu.Unlock()
		if doubt {
			return ErrWritesLost
		}
		_, generation, err := c.do(ctx, call{command: cmdFlush})
		var lost *lostError
		broke := errors.As(err, &lost)

		c.mu.Lock()
		doubt = (broke || generation != began) && c.doubtful >= began
		if doubt {
			c.inDoubt = false
		} else if err == nil && generation == began && generation == c.generation {
			c.flushed = max(c.flushed, covered)
		}
		dead := c.dead
		c.mu.Unlock()
		switch {
		case doubt:
			return ErrWritesLost
		case !broke || dead != nil:
			return err
		}
	}
}
