package client

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dnbd/dnbd/internal/cache"
	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/seal"
)

// Stats is what a client did and heard so far. Bytes are bytes of blocks, without headers.
type Stats struct {
	Read     uint64 // bytes that readers asked for
	Errors   uint64 // reads that failed
	Waiting  int    // blocks that readers wait for
	Refused  uint64 // blocks that did not match the image's tree
	Drops    uint64 // datagrams that the kernel dropped for want of buffer
	Unopened seal.Stats
	OverNBD  bool   // blocks are read over NBD now, because group data does not arrive or the group is too fast
	Slow     bool   // the group is faster than our link
	Fetched  uint64 // bytes that were read over NBD so far
	Network  mcast.ReceiverStats
	Cache    cache.Stats
	Replicas []mcast.Replica
	Hosts    []Host
}

// Stats returns the counts so far.
func (c *Client) Stats() Stats {
	s := Stats{
		Read: c.asked.Load(), Errors: c.errors.Load(), Refused: c.refused.Load(),
		Fetched: c.fetched.Load(), Drops: c.sockets.drops(), Unopened: c.sockets.opener.Stats(), Cache: c.cache.Load().Stats(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.OverNBD, s.Slow = c.overNBD, c.away || c.rx.Slow()
	s.Waiting = len(c.readers)
	s.Network = c.rx.Stats()
	s.Replicas = c.rx.Replicas(time.Now())
	s.Hosts = c.unicast.hosts()
	return s
}

const (
	// silence is how long nothing may come that somebody waits for before the log says so ...
	silence = 3 * time.Second
	// ... and reminder after how long it says so again.
	reminder = 30 * time.Second
	// rejoinFirst is how long no data may come from servers that answer before the groups are joined again, and rejoinNext after
	// how long once more.
	rejoinFirst = time.Second
	rejoinNext  = 10 * time.Second
	// watchPeriod is the time between two looks at all that.
	watchPeriod = 500 * time.Millisecond
)

// watch says in the log when readers wait and nothing comes, and when it goes on. It joins the groups again when servers answer and
// none of their data arrives.
func (c *Client) watch() {
	tick := time.NewTicker(watchPeriod)
	defer tick.Stop()
	var said, moved, rejoined time.Time
	var symbols, foreign uint64
	for {
		var now time.Time
		select {
		case <-c.ctx.Done():
			return
		case now = <-tick.C:
		}
		c.cfg.Network.Keys.Refresh(c.cfg.Log)
		c.mu.Lock()
		waiting := len(c.readers) > 0 || c.copying != nil
		since, over, away := c.since, c.overNBD, c.away
		servers := c.rx.Replicas(now)
		heard := c.rx.Stats().Symbols
		hosts := c.unicast.hosts()
		c.mu.Unlock()
		sealed := c.sockets.opener.Stats().Foreign
		if !waiting {
			foreign = sealed
		}
		if heard != symbols || !waiting && !over {
			symbols, moved, rejoined = heard, now, time.Time{}
		}
		live := slices.ContainsFunc(servers, func(r mcast.Replica) bool { return r.Live })
		if live && !away && now.Sub(moved) >= rejoinFirst && (over || now.Sub(since) >= rejoinFirst) && now.Sub(rejoined) >= rejoinNext {
			rejoined = now
			if err := c.sockets.rejoin(); err != nil {
				c.cfg.Log.Error("join the groups again", "error", err)
			}
		}
		switch {
		case !waiting || now.Sub(since) < silence-watchPeriod:
			if !said.IsZero() {
				c.cfg.Log.Info("reading goes on", "image", c.cfg.Descriptor.Name)
			}
			said = time.Time{}
		case said.IsZero() || now.Sub(said) >= reminder:
			said = now
			why := whyNot(hosts)
			if len(hosts) == 0 {
				why = diagnose(servers, now.Sub(moved) >= rejoinFirst, sealed > foreign)
			}
			c.cfg.Log.Warn(fmt.Sprintf("waiting for %s %v", c.cfg.Descriptor.Name, c.cfg.Network), "for", now.Sub(since).Round(time.Second), "why", why)
		}
	}
}

// diagnose says in words what was heard and what was not; deaf is that no data arrives at all, foreign that something came which our
// key does not open.
func diagnose(servers []mcast.Replica, deaf, foreign bool) string {
	if foreign {
		return diagnose(servers, deaf, false) + "; heard sealed datagrams that this group key does not open"
	}
	if len(servers) == 0 {
		return "no server that has the image answers"
	}
	var live, stalled []string
	for _, s := range servers {
		name := fmt.Sprintf("server %d at %v", s.Server, s.Addr)
		if s.Live {
			live = append(live, name)
		} else {
			stalled = append(stalled, name)
		}
	}
	switch {
	case len(live) == 0:
		return strings.Join(stalled, ", ") + " stopped answering"
	case deaf:
		why := strings.Join(live, ", ") + " answers, but none of its multicast data arrives: " +
			"look for a switch with IGMP snooping and no querier, or a firewall that stops UDP to the group"
		if !slices.ContainsFunc(servers, func(s mcast.Replica) bool { return s.NBD.IsValid() }) {
			why += "; it has no NBD port that could be read from instead: 'dnbd serve --nbd' gives it one"
		}
		return why
	}
	return strings.Join(live, ", ") + " answers, but sends nothing new"
}
