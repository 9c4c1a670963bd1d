package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/nbd"
)

const (
	// lookPeriod is how often it is looked whether group data still does not arrive, or arrives again.
	lookPeriod = 50 * time.Millisecond
	// fetchBytes is how much one request over NBD asks for at most. Of single blocks there are maxRequests at a time of one server.
	fetchBytes  = 1 << 20
	maxRequests = 32
	// fetchTimeout is how long a request may take: enough for many clients behind one slow link.
	fetchTimeout = 30 * time.Second
	// A server that fails is left alone for pauseMin, twice as long each time in a row up to pauseMax; one that sent bytes that are not
	// the image's for wrongPause. Then it is connected to, and asked for blocks when that has worked.
	pauseMin   = 250 * time.Millisecond
	pauseMax   = 5 * time.Second
	wrongPause = time.Minute
	// sayAgain is how long the log is spared what it has been told.
	sayAgain = 10 * time.Minute
)

// errWrong is the failure of a server whose bytes do not match the image's tree.
var errWrong = errors.New("its bytes do not match the image's tree")

// unicast reads over NBD: from the servers of the group, while their group data does not arrive or is too fast, or what nobody else has a
// use for; or from the Network's hosts. Every block passes through the same check as the group's. All of it belongs to one goroutine, but
// for what says otherwise.
type unicast struct {
	client  *Client
	sources map[string]*source // by address; guarded by client.mu
	getting map[uint32]*source // blocks that are asked for, and of whom
	stuck   map[*source]bool   // sources that hang, while others do not
	results chan result
	said    map[string]time.Time // what the log was told, and when
}

// source is the NBD export of a server. Its fields are guarded by client.mu, but for conn.
type source struct {
	addr     string      // HOST:PORT
	secure   bool        // it needs TLS
	conn     *nbd.Client // nil until it is connected; opened by the first request, which runs alone
	busy     int         // requests under way
	owed     int         // bytes that they ask for
	moved    time.Time   // one of them ended, or the first of them began
	pace     pace
	bytes    uint64    // that came
	broken   bool      // conn is to be closed when no request is under way
	failures int       // in a row
	why      error     // the last of them; nil when it works
	paused   time.Time // not asked until then
}

// hangsAt is when a source that owes is silent for too long: then others are asked for what it owes, if there are any.
func (s *source) hangsAt() time.Time { return s.moved.Add(s.pace.patience()) }

func (s *source) hangs(now time.Time) bool { return s.busy > 0 && !now.Before(s.hangsAt()) }

// room says whether a further request may be sent.
func (s *source) room() bool {
	if s.conn == nil {
		return s.busy == 0
	}
	return s.busy < maxRequests && s.owed < s.pace.size()
}

// request is for consecutive blocks of a source.
type request struct {
	source *source
	first  uint32
	count  int // 0: it is for connecting only
	owed   int // bytes that the source owed with it
}

// result is what became of a request.
type result struct {
	request
	conn  *nbd.Client // that was opened for it, or nil
	bytes int
	took  time.Duration
	err   error
}

// Host is what a client knows of one of Network.Hosts.
type Host struct {
	Addr  string
	Live  bool
	Why   error  // of a host that is not live
	Bytes uint64 // that it sent us
}

// hosts are the Network's. It is called with client.mu held.
func (u *unicast) hosts() (list []Host) {
	for _, addr := range u.client.cfg.Network.Hosts {
		h := Host{Addr: addr}
		if s := u.sources[addr]; s != nil {
			h.Live, h.Why, h.Bytes = s.failures == 0 && s.bytes > 0, s.why, s.bytes
		}
		list = append(list, h)
	}
	return list
}

// fetch decides by which way blocks come, and gets them over NBD when it is that.
func (c *Client) fetch() {
	u := c.unicast
	defer u.close()
	look := time.NewTimer(lookPeriod)
	defer look.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-look.C:
		case <-c.lacking:
		case r := <-u.results:
			u.ended(time.Now(), r)
		}
		now := time.Now()
		u.look(now)
		look.Reset(u.next(now))
	}
}

// next is how long nothing has to be looked at if nothing happens.
func (u *unicast) next(now time.Time) time.Duration {
	u.client.mu.Lock()
	defer u.client.mu.Unlock()
	next := lookPeriod
	for _, s := range u.sources {
		if s.busy > 0 && !s.hangs(now) {
			next = min(next, s.hangsAt().Sub(now))
		}
	}
	return next
}

// close waits for the requests under way, which end with the client, and closes the connections.
func (u *unicast) close() {
	for _, s := range u.sources {
		for s.busy > 0 {
			u.ended(time.Now(), <-u.results)
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
	s.broken = false
}

// situation is how a client stands to the group.
type situation struct {
	deaf, slow bool // as its Receiver says
	over       bool // blocks are read over NBD, and the group is spared
	away       bool // the data groups are left
}

// look changes the way if it has to, and asks for what is missing.
func (u *unicast) look(now time.Time) {
	c := u.client
	alone := len(c.cfg.Network.Hosts) > 0
	c.mu.Lock()
	is, was := situation{deaf: c.rx.Deaf(), slow: c.rx.Slow()}, situation{over: c.overNBD, away: c.away}
	apart := c.rx.Alone()
	var usable []*source
	var requests []request
	if is.deaf || is.slow || alone || apart {
		usable, requests = u.usable(now)
	}
	is.over = (is.deaf || is.slow) && len(usable) > 0 || alone
	is.away = is.slow && is.over && !alone
	c.rx.Apart(len(usable) > 0 && !is.over)
	c.overNBD, c.away = is.over, is.away
	if is.away {
		c.rx.Leave(true)
	} else if was.away {
		c.join() // before anything is asked
		c.rx.Leave(false)
	}
	if is.over != was.over {
		c.rx.Spare(is.over)
	}
	if len(usable) > 0 {
		requests = append(requests, u.share(now, usable, c.rx.Lacking(u.room(usable), u.can))...)
	}
	c.step(now)
	if is.away {
		c.sockets.leave() // again if a socket was opened meanwhile
	}
	if is.over != was.over || is.away != was.away || is.slow && !is.over {
		u.say(now, was, is, usable)
	}
	for _, r := range requests {
		u.start(r)
	}
	if !is.over && !is.deaf && !is.slow && !apart {
		u.tidy(now)
	}
}

// say tells that the way has changed, or that the group is too fast and there is no other.
func (u *unicast) say(now time.Time, was, is situation, usable []*source) {
	switch {
	case len(u.client.cfg.Network.Hosts) > 0: // as was asked for
	case is.away:
		u.tell(now, slog.LevelWarn, "the group is faster than this machine's link; reading over NBD and trying the group again from time to time",
			"servers", names(usable))
	case is.over:
		u.tell(now, slog.LevelWarn, "servers answer, but no multicast data arrives; reading over NBD until it does", "servers", names(usable))
	case is.slow:
		u.tell(now, slog.LevelWarn, "the group is faster than this machine's link, and nothing can be read over NBD instead; staying in the group")
	case is.deaf:
		u.tell(now, slog.LevelWarn, "nothing can be read over NBD either; asking the group again")
	case was.away:
		u.tell(now, slog.LevelInfo, "trying whether the group is still faster than this machine's link")
	default:
		u.client.cfg.Log.Info("multicast data arrives again; reading from the group", "image", u.client.cfg.Descriptor.Name)
	}
}

// tell tells the log what it has not been told lately.
func (u *unicast) tell(now time.Time, level slog.Level, text string, args ...any) {
	if last, ok := u.said[text]; ok && now.Sub(last) < sayAgain {
		return
	}
	u.said[text] = now
	u.client.cfg.Log.Log(u.client.ctx, level, text, append([]any{"image", u.client.cfg.Descriptor.Name}, args...)...)
}

// tidy closes connections that are not used.
func (u *unicast) tidy(now time.Time) {
	u.client.mu.Lock()
	defer u.client.mu.Unlock()
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

// usable are the servers that can be asked for blocks, and requests to connect to those that may be some again. It is called with
// client.mu held.
func (u *unicast) usable(now time.Time) (list []*source, probes []request) {
	type address struct {
		addr   string
		secure bool
	}
	var all []address
	for _, addr := range u.client.cfg.Network.Hosts {
		all = append(all, address{addr, false})
	}
	for _, r := range u.client.rx.Replicas(now) {
		if r.NBD.IsValid() {
			all = append(all, address{r.NBD.String(), r.TLS})
		}
	}
	for _, a := range all {
		s := u.sources[a.addr]
		if s == nil {
			if len(u.sources) >= maxRoutes {
				continue
			}
			s = &source{addr: a.addr}
			u.sources[a.addr] = s
		}
		s.secure = a.secure
		switch {
		case now.Before(s.paused):
		case s.failures == 0:
			list = append(list, s)
		case s.busy == 0:
			probes = append(probes, u.assign(now, s, 0, 0))
		}
	}
	fit := slices.DeleteFunc(slices.Clone(list), func(s *source) bool { return s.hangs(now) })
	clear(u.stuck)
	if len(fit) == 0 {
		return list, probes
	}
	for _, s := range u.sources {
		if s.hangs(now) {
			u.stuck[s] = true
		}
	}
	return fit, probes
}

// room is how many blocks can be asked for now.
func (u *unicast) room(usable []*source) int {
	n := 0
	for _, s := range usable {
		if s.room() {
			n += (s.pace.size()-s.owed)/u.client.geometry.BlockSize() + 1
		}
	}
	return n
}

// can says whether a block can be asked for: it is not on its way yet, and the page above it is known, so that it can be checked.
func (u *unicast) can(number uint32) bool {
	_, known := u.client.tree.Hash(number)
	s := u.getting[number]
	return known && (s == nil || u.stuck[s])
}

// share makes requests for blocks, of the servers that will soonest have sent what they owe. It is called with client.mu held.
func (u *unicast) share(now time.Time, usable []*source, blocks []uint32) (requests []request) {
	load := func(s *source) float64 { return float64(s.owed) / float64(s.pace.size()) }
	for len(blocks) > 0 {
		var s *source
		for _, other := range usable {
			if other.room() && (s == nil || load(other) < load(s)) {
				s = other
			}
		}
		if s == nil {
			break
		}
		// Several requests at a time: an answer is checked and handed on while the next one comes.
		most := max(1, min(fetchBytes, s.pace.size()/4)/u.client.geometry.BlockSize())
		n := 1
		for n < min(len(blocks), most) && blocks[n] == blocks[0]+uint32(n) {
			n++
		}
		requests = append(requests, u.assign(now, s, blocks[0], n))
		blocks = blocks[n:]
	}
	return requests
}

// assign makes a request that is to be started. It is called with client.mu held.
func (u *unicast) assign(now time.Time, s *source, first uint32, count int) request {
	if s.busy == 0 {
		s.moved = now
	}
	s.busy++
	s.owed += count * u.client.geometry.BlockSize()
	for i := range uint32(count) {
		u.getting[first+i] = s
	}
	return request{s, first, count, s.owed}
}

// start sends a request.
func (u *unicast) start(q request) {
	conn, addr, secure, began := q.source.conn, q.source.addr, q.source.secure, time.Now()
	go func() {
		r := result{request: q}
		ctx, cancel := context.WithTimeout(u.client.ctx, fetchTimeout)
		defer cancel()
		if conn == nil {
			conn, r.err = u.client.connect(ctx, addr, secure)
			r.conn = conn
		}
		if r.err == nil && q.count > 0 {
			r.bytes, r.err = u.client.fetchRun(ctx, conn, q.first, q.count)
		}
		r.took = time.Since(began)
		u.results <- r
	}()
}

// ended takes in what became of a request.
func (u *unicast) ended(now time.Time, r result) {
	u.client.mu.Lock()
	defer u.client.mu.Unlock()
	s := r.source
	s.busy--
	s.owed -= r.count * u.client.geometry.BlockSize()
	s.moved = now
	for i := range uint32(r.count) {
		if u.getting[r.first+i] == s {
			delete(u.getting, r.first+i)
		}
	}
	switch {
	case r.conn == nil:
	case s.conn == nil:
		s.conn = r.conn
	default:
		_ = r.conn.Close() // another request was faster to connect
	}
	s.bytes += uint64(r.bytes)
	log := u.client.cfg.Log
	switch {
	case r.err == nil && s.broken: // of the connection that failed another request
	case r.err == nil:
		if s.failures > 0 {
			log.Info("reading over NBD from a server again", "server", s.addr)
		}
		s.failures, s.why = 0, nil
		if r.count > 0 && r.conn == nil { // else it includes connecting
			s.pace.answered(r.bytes, r.owed, r.took)
		}
	case u.client.ctx.Err() == nil && !s.broken: // one failure for all that were under way
		s.broken, s.why = true, r.err
		pause := min(pauseMin<<min(s.failures, 10), pauseMax)
		if errors.Is(r.err, errWrong) {
			pause = wrongPause
		}
		if s.paused = now.Add(pause); s.failures == 0 {
			log.Warn("read over NBD failed; leaving that server alone until it works", "server", s.addr, "error", r.err)
		}
		s.failures++
	}
	if s.broken && s.busy == 0 {
		u.hangUp(s)
	}
}

// connect opens the export of the image's blocks.
func (c *Client) connect(ctx context.Context, addr string, secure bool) (*nbd.Client, error) {
	n, _, err := c.cfg.Network.dial(ctx, addr, c.cfg.Descriptor.ID().ExportName(), secure)
	if err != nil {
		return nil, err
	}
	if want := c.geometry.Offset(c.geometry.Total()); n.Size() != want {
		return nil, errors.Join(fmt.Errorf("its export has %d bytes, the image's blocks %d: %w", n.Size(), want, errWrong), n.Close())
	}
	return n, nil
}

// fetchRun gets blocks and hands them on as if they had come from the group. It returns how many bytes were the image's.
func (c *Client) fetchRun(ctx context.Context, from *nbd.Client, first uint32, count int) (n int, err error) {
	size := c.geometry.BlockSize()
	last := first + uint32(count) - 1
	buf := make([]byte, (count-1)*size+c.geometry.Len(last))
	if err := from.ReadAt(ctx, buf, c.geometry.Offset(first)); err != nil {
		return 0, err
	}
	for b := first; b <= last; b++ {
		data := buf[:c.geometry.Len(b)]
		buf = buf[min(size, len(buf)):]
		want, _ := c.tree.Hash(b)
		if image.Sum(data) != want {
			c.refused.Add(1)
			return n, fmt.Errorf("block %d: %w", b, errWrong)
		}
		n += len(data)
		c.supplied(b, want, data)
	}
	return n, nil
}

// names are the addresses of servers, for messages.
func names(sources []*source) string {
	var list []string
	for _, s := range sources {
		list = append(list, s.addr)
	}
	return strings.Join(list, ", ")
}

// newUnicast returns a unicast that has not begun.
func newUnicast(c *Client) *unicast {
	return &unicast{
		client: c, sources: map[string]*source{}, getting: map[uint32]*source{}, stuck: map[*source]bool{}, results: make(chan result),
		said: map[string]time.Time{},
	}
}

// whyNot says of each of the Network's hosts why it does not answer.
func whyNot(hosts []Host) string {
	why := map[string]bool{}
	for _, h := range hosts {
		switch {
		case h.Why != nil:
			why[fmt.Sprintf("%s: %v", h.Addr, h.Why)] = true
		case !h.Live:
			why[h.Addr+" does not answer"] = true
		default:
			why[h.Addr+" answers, but slowly"] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(why)), "; ")
}
