package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/nbd"
)

const (
	// lookPeriod is how often it is looked whether group data still does not arrive, or arrives again.
	lookPeriod = 50 * time.Millisecond
	// fetchBytes is how much one request over NBD asks for at most, and fetchesEach how many are under way to one server: enough for
	// 10 Gbit/s at 3 ms.
	fetchBytes  = 1 << 20
	fetchesEach = 4
	// A server hangs that takes longer than connectTimeout to connect, or than fetchTimeout for a request: that is enough for many clients
	// behind one slow link.
	connectTimeout = 5 * time.Second
	fetchTimeout   = 30 * time.Second
	// A server that fails is left alone for failedPause, one that sent bytes that are not the image's for wrongPause.
	failedPause = 5 * time.Second
	wrongPause  = time.Minute
)

// errWrong is the failure of a server whose bytes do not match the image's tree.
var errWrong = errors.New("its bytes do not match the image's tree")

// unicast reads over NBD from the servers of the group, while their group data does not arrive. Every block passes through the same
// check as the group's. All of it belongs to one goroutine, but for what says otherwise.
type unicast struct {
	client  *Client
	sources map[netip.AddrPort]*source
	getting map[uint32]bool // blocks that are asked for
	results chan result
}

// source is the NBD export of a server.
type source struct {
	addr   netip.AddrPort
	conn   *nbd.Client // nil until it is connected; opened by connect, which runs alone
	busy   int         // requests under way
	failed bool        // conn is to be closed when none is
	paused time.Time   // not asked until then
}

// blockRun is consecutive blocks.
type blockRun struct {
	first uint32
	count int
}

// result is what became of a request.
type result struct {
	source *source
	conn   *nbd.Client
	run    blockRun // empty: it was for connecting only
	err    error
}

// fetch decides by which way blocks come, and gets them over NBD when it is that.
func (c *Client) fetch() {
	u := &unicast{client: c, sources: map[netip.AddrPort]*source{}, getting: map[uint32]bool{}, results: make(chan result)}
	defer u.close()
	look := time.NewTicker(lookPeriod)
	defer look.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-look.C:
		case <-c.lacking:
		case r := <-u.results:
			u.ended(r)
		}
		u.look(time.Now())
	}
}

// close waits for the requests under way, which end with the client, and closes the connections.
func (u *unicast) close() {
	for _, s := range u.sources {
		for s.busy > 0 {
			u.ended(<-u.results)
		}
	}
	for _, s := range u.sources {
		u.hangUp(s)
	}
}

func (u *unicast) hangUp(s *source) {
	if s.conn != nil {
		_ = s.conn.Close() // nothing was written
		s.conn = nil
	}
}

// look changes the way if it has to, and asks for what is missing.
func (u *unicast) look(now time.Time) {
	c := u.client
	c.mu.Lock()
	deaf := c.rx.Deaf()
	var usable []*source
	if deaf {
		usable = u.usable(now, c.rx.Replicas(now))
	}
	on := len(usable) > 0
	was := c.overNBD
	var runs []blockRun
	if on {
		runs = u.join(c.rx.Lacking(u.room(usable), u.can))
	}
	if on == was {
		c.mu.Unlock()
	} else {
		c.overNBD = on
		c.rx.Spare(on)
		c.step(now)
	}
	switch {
	case on && !was:
		c.cfg.Log.Warn("servers answer, but no multicast data arrives; reading over NBD until it does", "image", c.cfg.Descriptor.Name,
			"servers", names(usable))
	case was && !deaf:
		c.cfg.Log.Info("multicast data arrives again; reading from the group", "image", c.cfg.Descriptor.Name)
	case was && !on:
		c.cfg.Log.Warn("nothing can be read over NBD either; asking the group again", "image", c.cfg.Descriptor.Name)
	}
	if !on {
		u.tidy(now)
	}
	for _, run := range runs {
		s := slices.MinFunc(usable, func(a, b *source) int { return a.busy - b.busy })
		if s.busy == fetchesEach {
			return
		}
		u.start(s, run)
	}
}

// tidy closes connections that are not used.
func (u *unicast) tidy(now time.Time) {
	for addr, s := range u.sources {
		if s.busy > 0 {
			continue
		}
		u.hangUp(s)
		if !now.Before(s.paused) {
			delete(u.sources, addr)
		}
	}
}

// usable are the servers that can be asked.
func (u *unicast) usable(now time.Time, replicas []mcast.Replica) []*source {
	var list []*source
	for _, r := range replicas {
		if !r.NBD.IsValid() {
			continue
		}
		s := u.sources[r.NBD]
		if s == nil {
			if len(u.sources) >= maxRoutes {
				continue
			}
			s = &source{addr: r.NBD}
			u.sources[r.NBD] = s
		}
		if !now.Before(s.paused) {
			list = append(list, s)
		}
	}
	return list
}

// room is how many blocks can be asked for now.
func (u *unicast) room(usable []*source) int {
	n := 0
	for _, s := range usable {
		n += (fetchesEach - s.busy) * u.perRun()
	}
	return n
}

// can says whether a block can be asked for: it is not on its way yet, and the page above it is known, so that it can be checked.
func (u *unicast) can(number uint32) bool {
	_, known := u.client.tree.Hash(number)
	return known && !u.getting[number]
}

// perRun is how many blocks are asked for at once.
func (u *unicast) perRun() int { return max(1, fetchBytes/u.client.geometry.BlockSize()) }

// join makes runs of blocks.
func (u *unicast) join(blocks []uint32) []blockRun {
	var runs []blockRun
	for _, b := range blocks {
		if n := len(runs); n > 0 && runs[n-1].count < u.perRun() && runs[n-1].first+uint32(runs[n-1].count) == b {
			runs[n-1].count++
			continue
		}
		runs = append(runs, blockRun{b, 1})
	}
	return runs
}

// start asks a server for a run.
func (u *unicast) start(s *source, run blockRun) {
	s.busy++
	for i := range run.count {
		u.getting[run.first+uint32(i)] = true
	}
	conn := s.conn
	go func() {
		r := result{source: s, run: run}
		ctx, cancel := context.WithTimeout(u.client.ctx, fetchTimeout)
		defer cancel()
		if conn == nil {
			conn, r.err = connect(ctx, s.addr, u.client.cfg.Descriptor.ID(), u.client.geometry)
			r.conn = conn
		}
		if r.err == nil {
			r.err = u.client.fetchRun(ctx, conn, run)
		}
		u.results <- r
	}()
}

// ended takes in what became of a request.
func (u *unicast) ended(r result) {
	s := r.source
	s.busy--
	for i := range r.run.count {
		delete(u.getting, r.run.first+uint32(i))
	}
	switch {
	case r.conn == nil:
	case s.conn == nil:
		s.conn = r.conn
	default:
		_ = r.conn.Close() // another request was faster to connect
	}
	if r.err != nil && u.client.ctx.Err() == nil {
		s.failed = true
		pause := failedPause
		if errors.Is(r.err, errWrong) {
			pause = wrongPause
		}
		if now := time.Now(); now.After(s.paused) {
			s.paused = now.Add(pause)
			u.client.cfg.Log.Warn("read over NBD failed; leaving that server alone", "server", s.addr, "for", pause, "error", r.err)
		}
	}
	if s.failed && s.busy == 0 {
		u.hangUp(s)
		s.failed = false
	}
}

// connect opens the export of the image's blocks.
func connect(ctx context.Context, addr netip.AddrPort, id image.ID, g image.Geometry) (*nbd.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	n, err := nbd.NewClient(ctx, conn, id.ExportName(), nbd.DialConfig{Contexts: []string{}})
	if err != nil {
		return nil, err
	}
	if want := g.Offset(g.Total()); n.Size() != want {
		return nil, errors.Join(fmt.Errorf("its export has %d bytes, the image's blocks %d: %w", n.Size(), want, errWrong), n.Close())
	}
	return n, nil
}

// fetchRun gets blocks and hands them on as if they had come from the group.
func (c *Client) fetchRun(ctx context.Context, from *nbd.Client, run blockRun) error {
	size := c.geometry.BlockSize()
	last := run.first + uint32(run.count) - 1
	buf := make([]byte, (run.count-1)*size+c.geometry.Len(last))
	if err := from.ReadAt(ctx, buf, c.geometry.Offset(run.first)); err != nil {
		return err
	}
	for b := run.first; b <= last; b++ {
		data := buf[:c.geometry.Len(b)]
		buf = buf[min(size, len(buf)):]
		want, _ := c.tree.Hash(b)
		if image.Sum(data) != want {
			c.refused.Add(1)
			return fmt.Errorf("block %d: %w", b, errWrong)
		}
		c.supplied(b, want, data)
	}
	return nil
}

func names(sources []*source) []string {
	var list []string
	for _, s := range sources {
		list = append(list, s.addr.String())
	}
	return list
}
