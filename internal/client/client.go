// Package client makes a block.Device of an image that servers offer to a group: it asks for blocks, keeps what it overhears, and
// hands out nothing that it has not checked against the image's tree.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/cache"
	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/udp"
	"github.com/dnbd/dnbd/internal/wire"
)

const (
	// window is how many bytes of read-ahead and bulk may be asked for and not there yet: it fills 10 Gbit/s at 3 ms, and
	// fits the receive buffer with room for what others ask for.
	window = 4 << 20
	// DefaultMemory is the size of the cache when no file is given, in bytes.
	DefaultMemory = 64 << 20
	// checkQueue bounds the blocks that wait to be checked. When it is full the sockets are not read: their buffers fill, the
	// kernel drops, and the server hears of it.
	checkQueue = 64
)

// Config says what a Client fetches.
type Config struct {
	Network    Network
	Descriptor image.Descriptor
	Cache      *cache.Cache  // the Client's to close, unless Open fails; nil for one of DefaultMemory
	IOTimeout  time.Duration // after which a read fails; 0 to wait for ever
	Log        *slog.Logger
}

// Client is an image as a block.Device.
type Client struct {
	cfg      Config
	tree     *image.Tree
	geometry image.Geometry
	cache    atomic.Pointer[cache.Cache]
	sockets  *sockets
	ctx      context.Context // ends when the client is closed
	cancel   context.CancelFunc
	workers  sync.WaitGroup
	blocks   chan mcast.Block // to be checked
	ahead    ahead
	snooped  marks // blocks that came unasked and were not read yet
	unicast  *unicast

	ioTimeout atomic.Int64 // nanoseconds; see Config.IOTimeout

	mu       sync.Mutex // guards what follows, and is never held while something is waited for or hashed
	rx       *mcast.Receiver
	timerAt  time.Time
	readers  map[uint32][]*reader
	checking map[uint32]int // blocks that came and are being checked: who wants one now need not ask for it
	copying  *copying
	since    time.Time // when a block came last, or was first waited for
	overNBD  bool      // blocks are read over NBD, and the group is spared
	away     bool      // the data groups are left, because they are faster than our link

	timer   chan struct{} // timerAt moved forward
	lacking chan struct{} // something is wanted that is to be read over NBD
	fetched atomic.Uint64 // bytes of blocks that were
	refused atomic.Uint64 // blocks that did not match their hash
	errors  atomic.Uint64 // reads that failed
	asked   atomic.Uint64 // bytes that readers asked for
}

// reader waits for a block.
type reader struct {
	dst  []byte // to be filled, or nil for a page of the tree
	off  int    // in the block
	done chan struct{}
}

// Open makes the device. It does not wait for a server: reads do.
func Open(cfg Config) (*Client, error) {
	if err := cfg.Descriptor.Validate(); err != nil {
		return nil, err
	}
	g, err := cfg.Descriptor.Geometry()
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg: cfg, tree: image.NewTree(cfg.Descriptor), geometry: g,
		snooped: newMarks(g.Total()),
		blocks:  make(chan mcast.Block, checkQueue), timer: make(chan struct{}, 1), lacking: make(chan struct{}, 1),
		readers: map[uint32][]*reader{}, checking: map[uint32]int{},
	}
	c.unicast = newUnicast(c)
	c.SetIOTimeout(cfg.IOTimeout)
	own := cfg.Cache == nil
	if own {
		if cfg.Cache, err = cache.NewMemory(DefaultMemory, cfg.Descriptor.BlockSize); err != nil {
			return nil, fmt.Errorf("make a cache in memory: %w", err)
		}
	}
	c.cache.Store(cfg.Cache)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.rx = mcast.NewReceiver(time.Now(), mcast.ReceiverConfig{
		ID: cfg.Descriptor.ID(), Blocks: g.Total(), Length: g.Len, Keep: c.keep,
		Group: cfg.Network.Group, Window: window, Coder: mcast.NewCoder(),
		Rand: rand.New(rand.NewChaCha8(seed())),
	})
	c.mu.Lock() // so that no datagram is taken in before sockets is set
	c.sockets, err = listen(cfg.Network, c.input)
	c.mu.Unlock()
	if err != nil {
		c.cancel()
		if own {
			err = errors.Join(err, cfg.Cache.Close())
		}
		return nil, err
	}
	for range runtime.GOMAXPROCS(0) {
		c.workers.Go(c.check)
	}
	c.workers.Go(c.keepTime)
	c.workers.Go(c.watch)
	c.workers.Go(c.fetch)
	c.mu.Lock()
	c.step(time.Now())
	return c, nil
}

// Size implements block.Device.
func (c *Client) Size() int64 { return c.geometry.Size() }

// Descriptor describes the image.
func (c *Client) Descriptor() image.Descriptor { return c.cfg.Descriptor }

// Close implements block.Device. It ends all reads.
func (c *Client) Close() error {
	c.cancel()
	c.sockets.close()
	c.workers.Wait()
	return c.cache.Load().Close()
}

// AddCache makes the client keep its blocks in another cache from now on, moves what it has into that one, and closes the one
// before. The client closes n too, in the end.
func (c *Client) AddCache(n *cache.Cache) error {
	if have, need := n.Stats().SlotSize, c.geometry.BlockSize(); have < need {
		return fmt.Errorf("add cache: its slots of %d bytes cannot hold the image's blocks of %d", have, need)
	}
	old := c.cache.Swap(n)
	buf := make([]byte, c.geometry.BlockSize())
	for b := range c.geometry.Total() {
		hash, known := c.tree.Hash(b)
		if !known || !old.Has(hash) || n.Has(hash) {
			continue
		}
		if p := buf[:c.geometry.Len(b)]; old.Get(hash, p, 0) {
			n.Put(hash, p, false)
		}
	}
	return old.Close()
}

// keep says whether an overheard block is worth assembling. It is called with mu held.
func (c *Client) keep(block uint32) bool {
	if c.copying != nil {
		return false // what it needs it has asked for
	}
	h, known := c.tree.Hash(block)
	return !known || !c.cache.Load().Has(h)
}

// input takes in what one socket heard.
func (c *Client) input(conn *udp.Conn, heard []datagram) {
	now := time.Now()
	c.mu.Lock()
	control := false
	for _, d := range heard {
		c.rx.InputLate(now, d.Arrived, d.From, d.data)
		if t, err := wire.TypeOf(d.data); err == nil && t != wire.TypeData {
			c.sockets.learn(conn, d.Message)
			control = true
		}
	}
	if control {
		// Before anything is asked of a server that was just met, its data must be heard.
		c.join()
	}
	c.step(now)
}

// join hears the data groups, unless they were left. It is called with mu held and releases it meanwhile.
func (c *Client) join() {
	if c.away {
		return
	}
	groups := c.rx.Groups()
	c.mu.Unlock()
	defer c.mu.Lock()
	for _, g := range groups {
		if err := c.sockets.join(g); err != nil {
			c.cfg.Log.Error("join data group", "group", g, "error", err)
		}
	}
}

// step lets the machine do what is due, and carries out what came of it. It is called with mu held and releases it.
func (c *Client) step(now time.Time) {
	c.rx.Step(now)
	packets := c.rx.Packets()
	var blocks []mcast.Block
	if b := c.rx.Blocks(); len(b) > 0 {
		blocks = append(blocks, b...)
		for i := range blocks {
			c.checking[blocks[i].Index]++
		}
		c.since = now
	}
	if c.rx.Parting() {
		c.fetchSoon()
	}
	next := c.rx.Next(now)
	sooner := c.timerAt.IsZero() || next.Before(c.timerAt)
	if sooner {
		c.timerAt = next
	}
	c.mu.Unlock()
	if sooner {
		select {
		case c.timer <- struct{}{}:
		default:
		}
	}
	if len(packets) > 0 {
		c.sockets.send(packets)
	}
	for _, b := range blocks {
		select {
		case c.blocks <- b:
		case <-c.ctx.Done():
			return
		}
	}
}

// keepTime steps the machine when time alone makes something due.
func (c *Client) keepTime() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.timer:
		case <-timer.C:
		}
		now := time.Now()
		c.mu.Lock()
		if !now.Before(c.timerAt) {
			c.rx.SetDrops(c.sockets.drops())
			c.timerAt = time.Time{}
			c.step(now)
			c.mu.Lock()
		}
		next := c.timerAt
		c.mu.Unlock()
		timer.Reset(max(time.Until(next), 50*time.Microsecond))
	}
}

// want asks for a block, unless it has come and is being checked. It is called with mu held.
func (c *Client) want(now time.Time, block uint32, class wire.Priority) {
	if c.checking[block] == 0 {
		c.rx.Want(now, block, class)
	}
	if c.overNBD {
		c.fetchSoon()
	}
}

// fetchSoon lets the goroutine of unicast look.
func (c *Client) fetchSoon() {
	select {
	case c.lacking <- struct{}{}:
	default:
	}
}

// SetIOTimeout changes what Config.IOTimeout has set, for reads that begin later.
func (c *Client) SetIOTimeout(d time.Duration) { c.ioTimeout.Store(int64(d)) }

// timedOut is the error of a read that took too long.
func (c *Client) timedOut(err error) error {
	if limit := time.Duration(c.ioTimeout.Load()); errors.Is(err, context.DeadlineExceeded) && limit > 0 {
		return fmt.Errorf("no answer within %v %v: %w", limit, c.cfg.Network, block.ErrTimeout)
	}
	if c.ctx.Err() != nil {
		return block.ErrClosed
	}
	return err
}
