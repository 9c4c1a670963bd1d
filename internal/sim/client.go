package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/seal"
	"github.com/dnbd/dnbd/internal/wire"
)

// Client is a Receiver with a cache that holds everything, and someone who reads.
type Client struct {
	*Node
	Receiver *mcast.Receiver
	Have     []bool // blocks that are here
	Left     int    // of them that are not
	Wrong    int    // blocks that came with wrong bytes, and were refused
	Done     time.Time
	Skew     time.Duration // of its clock, which never goes back
	// OnBlock, if set, is called with each block that becomes here.
	OnBlock func(block uint32)

	seals   seals
	image   *Image
	wakeAt  time.Time
	unicast *Server        // what NBD would be to a real client
	getting map[uint32]int // blocks asked for there, with the bytes that are to come
	stream  *TCP           // that they come by, nil for the way of SendStream
	coming  []passage      // by that, in order
	Fetched int            // blocks that came from there
	away    bool           // it has left the data groups, because they are too fast
	Leaves  int            // how often it has
}

// simulated unicast: a question is a datagram of this byte and a block's number, an answer one of them for each piece of the block.
const (
	unicastMark  = 0xff
	unicastPiece = 1448
	unicastDepth = 8 // blocks asked for at a time
)

// passage is a block and where it ends in a stream.
type passage struct {
	block uint32
	end   uint64
}

// ReadFrom lets the client read by unicast from a server, as a real one does over NBD. Behind a trunk the blocks come by TCP, from a
// port of the server's own for that, and questions take no time.
func (c *Client) ReadFrom(s *Server) {
	c.unicast, c.getting = s, map[uint32]int{}
	if c.Link.Trunk != nil {
		c.stream = c.world.connect(s.Link, Link{Delay: c.Link.Delay, Trunk: c.Link.Trunk}, c.streamed)
		c.stream.careful = true
	}
}

// streamed takes in that more has come by TCP.
func (c *Client) streamed() {
	for len(c.coming) > 0 && c.stream.Delivered >= c.coming[0].end {
		c.supply(c.coming[0].block)
		c.coming = c.coming[1:]
	}
	c.pump()
}

// fetch asks for what the Receiver leaves to its owner.
func (c *Client) fetch() {
	if c.unicast == nil {
		return
	}
	c.Receiver.Apart(true)
	if slow := c.Receiver.Slow(); slow != c.away {
		c.away = slow
		for _, g := range c.Receiver.Groups() {
			if slow {
				c.Leave(g)
			}
		}
		if slow {
			c.Leaves++
		}
		c.Receiver.Leave(slow)
	}
	can := func(block uint32) bool { return c.getting[block] == 0 }
	for _, block := range c.Receiver.Lacking(unicastDepth-len(c.getting), can) {
		c.getting[block] = c.image.Len(block)
		if c.stream != nil {
			c.stream.offer(uint64(c.image.Len(block)))
			c.coming = append(c.coming, passage{block, c.stream.offered})
			continue
		}
		c.SendStream(c.unicast.Addr, binary.BigEndian.AppendUint32([]byte{unicastMark}, block))
	}
}

// fetched takes in a piece of a block.
func (c *Client) fetched(data []byte) {
	block := binary.BigEndian.Uint32(data[1:])
	if c.getting[block] -= len(data) - 5; c.getting[block] > 0 {
		return
	}
	c.supply(block)
}

// supply takes in a block that came by unicast.
func (c *Client) supply(block uint32) {
	delete(c.getting, block)
	c.Fetched++
	c.Receiver.Supply(block)
	c.got(block)
}

// got notes that a block is here.
func (c *Client) got(block uint32) {
	if !c.Have[block] {
		c.Have[block] = true
		c.Left--
		if c.Left == 0 {
			c.Done = c.world.now
		}
	}
	if c.OnBlock != nil {
		c.OnBlock(block)
	}
}

// NewClient starts a client of an image. It asks for nothing yet.
func (w *World) NewClient(image *Image, window int, link Link) *Client {
	c := &Client{image: image, Have: make([]bool, image.Total()), Left: int(image.Total()), seals: w.seals(seal.Client, seal.Server)}
	c.Node = w.NewNode(link, c.seals.opened(c.receive))
	c.Receiver = mcast.NewReceiver(w.now, mcast.ReceiverConfig{
		ID: image.ID, Blocks: image.Total(), Length: image.Len,
		Keep:  func(block uint32) bool { return !c.Have[block] },
		Group: Group, Window: window, Coder: image.coder,
		Rand: rand.New(rand.NewPCG(w.Rand.Uint64(), 1)),
	})
	c.Join(Group)
	w.After(0, c.pump)
	return c
}

// Copy makes the client want the whole image, at the group's convenience.
func (c *Client) Copy() {
	for block := range c.image.Total() {
		if !c.Have[block] {
			c.Receiver.WantBulk(c.now(), block)
		}
	}
	c.pump()
}

// Read makes the client want a block now, and calls then when it is here.
func (c *Client) Read(block uint32, class wire.Priority) {
	if !c.Have[block] {
		c.Receiver.Want(c.now(), block, class)
		c.pump()
	}
}

// Evict makes the client lose a block, as a small cache would.
func (c *Client) Evict(block uint32) {
	if c.Have[block] {
		c.Have[block] = false
		c.Left++
	}
}

func (c *Client) receive(from netip.AddrPort, data []byte) {
	if c.unicast != nil && len(data) > 5 && data[0] == unicastMark {
		c.fetched(data)
		c.pump()
		return
	}
	c.Receiver.Input(c.now(), from, data)
	c.pump()
}

func (c *Client) pump() {
	now := c.now()
	c.Receiver.Step(now)
	for _, b := range c.Receiver.Blocks() {
		if !bytes.Equal(b.Data, c.image.Block(b.Index)) {
			c.Wrong++
			c.Receiver.Refuse(now, b.Index, wire.Demand)
			continue
		}
		c.Receiver.Recycle(b.Data)
		c.got(b.Index)
	}
	c.fetch()
	if !c.away {
		for _, g := range c.Receiver.Groups() {
			c.Join(g)
		}
	}
	for _, p := range c.Receiver.Packets() {
		c.Send(p.To, c.seals.sealer.Control(p.Data))
	}
	c.wake(c.Receiver.Next(now).Add(-c.Skew))
}

func (c *Client) now() time.Time { return c.world.now.Add(c.Skew) }

func (c *Client) wake(at time.Time) {
	if c.wakeAt.After(c.world.now) && !at.Before(c.wakeAt) {
		return
	}
	c.wakeAt = at
	c.world.At(at, func() {
		if c.wakeAt.Equal(at) {
			c.wakeAt = time.Time{}
			c.pump()
		}
	})
}

// String tells where the client stands, for a test that failed.
func (c *Client) String() string {
	return fmt.Sprintf("client %v: %d blocks left, %d waiting, %d wrong, %+v",
		c.Addr.Addr(), c.Left, c.Receiver.Waiting(), c.Wrong, c.Receiver.Stats())
}
