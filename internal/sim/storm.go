package sim

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// Storm is many machines that boot from one image at nearly the same time.
type Storm struct {
	Seed    uint64
	Clients int
	Servers int
	Join    time.Duration // in which the clients are switched on, one after the other
	Loss    float64       // of what arrives at each client, and at each server
	Port    float64       // bits a second that a server's port carries
	Crash   bool          // one of the servers dies when half of the clients are there
}

// NewStorm returns the one that is measured unless something else is asked for: ten thousand clients within a minute, and a crash.
func NewStorm(seed uint64) Storm {
	return Storm{Seed: seed, Clients: 10_000, Servers: 4, Join: time.Minute, Loss: 0.01, Port: 250e6, Crash: true}
}

// Alone is the same with one client, for which nothing crashes.
func (s Storm) Alone() Storm {
	s.Clients, s.Crash = 1, false
	return s
}

// StormReport is what a Storm cost and how it was for those who waited. Three times are the median, the 99th percentile and the longest.
type StormReport struct {
	Storm
	Trace     int                 // reads of each client
	Unique    int                 // bytes of the blocks that a boot needs
	Sent      float64             // bytes of all data datagrams on the wire
	Blocks    float64             // of them, bytes of blocks that were sent whole
	Parity    float64             // bytes of symbols of parity that went with these
	Repairs   float64             // bytes of those that were asked for
	Control   float64             // bytes of all others on the wire, both ways
	Kinds     map[string]*Traffic // what these are
	Packets   float64             // control datagrams that a client sent in a second
	Reads     [3]time.Duration
	Waits     [3]time.Duration // of those reads that had to wait
	Waited    float64          // the part of all reads that these are
	Boot      [3]time.Duration
	Took      time.Duration // virtual
	ServerCPU time.Duration // real: the work of the servers' machines

	trace   *Trace
	image   *Image
	replays []*Replay
}

// Traffic is datagrams of one kind.
type Traffic struct {
	Packets int
	Bytes   float64 // on the wire
}

// count takes in a datagram that was sent.
func (r *StormReport) count(data []byte, size int) {
	kind := kindOf(data)
	if kind == "" {
		return
	}
	t := r.Kinds[kind]
	if t == nil {
		t = &Traffic{}
		r.Kinds[kind] = t
	}
	t.Packets++
	t.Bytes += float64(size)
}

// kindOf says what a control datagram is for. Data has no kind.
func kindOf(data []byte) string {
	t, _ := wire.TypeOf(data)
	switch t {
	case wire.TypeHello:
		return "HELLO"
	case wire.TypeWelcome:
		return "WELCOME"
	case wire.TypeAnnounce:
		return "ANNOUNCE"
	case wire.TypeDeny:
		return "DENY"
	case wire.TypeAck:
		return "ACK"
	case wire.TypeWant:
	default:
		return ""
	}
	var w wire.Want
	if wire.ParseWant(data, &w) != nil {
		return "WANT that is malformed"
	}
	kind := "WANT of nothing: a report"
	for _, r := range w.Ranges {
		switch {
		case r.Priority == wire.Note:
			kind = "WANT of nothing: a note"
		case r.Need > 0:
			return "WANT of symbols"
		default:
			return "WANT of blocks"
		}
	}
	return kind
}

// Run lets it happen. The error says that not every client booted within an hour, or that one got wrong bytes.
func (s Storm) Run() (*StormReport, error) {
	const (
		blockSize = 64 << 10
		window    = 4 << 20
	)
	trace, image := BootTrace(blockSize)
	w := NewWorld(s.Seed)
	replays := make([]*Replay, s.Clients)
	out := &StormReport{Storm: s, Trace: len(trace.Reads), Kinds: map[string]*Traffic{}, trace: trace, image: image, replays: replays}
	w.OnSend = out.count
	var servers []*Server
	for i := range s.Servers {
		server := w.NewServer(uint16(i+1), image, 0, Link{Rate: s.Port, Delay: 50 * time.Microsecond, Loss: s.Loss})
		server.Cost = &out.ServerCPU
		servers = append(servers, server)
	}
	start := w.Now()
	crowd := w.NewCrowd(image, Link{Delay: 50 * time.Microsecond, Loss: s.Loss}, s.Clients)
	for i := range replays {
		w.At(start.Add(time.Second+s.joins(i)), func() { replays[i] = crowd.Join(window).Replay(trace) })
	}
	if s.Crash {
		w.At(start.Add(time.Second+s.Join/2), servers[len(servers)-1].Kill)
	}
	running := func(r *Replay) bool { return r == nil || r.Ended.IsZero() }
	for slices.ContainsFunc(replays, running) {
		if w.Now().Sub(start) > time.Hour {
			return nil, fmt.Errorf("after an hour client %d has not booted", slices.IndexFunc(replays, running))
		}
		w.Run(time.Second, func() bool { return false })
	}
	if crowd.Wrong > 0 {
		return nil, fmt.Errorf("%d symbols were not the image's", crowd.Wrong)
	}
	out.measure(servers, crowd)
	out.Took = w.Now().Sub(start)
	return out, nil
}

func (r *StormReport) measure(servers []*Server, crowd *Crowd) {
	for _, b := range r.trace.Blocks {
		r.Unique += r.image.Len(b)
	}
	for _, s := range servers {
		st := s.Sender.Stats()
		data := float64(st.Bytes)
		r.Sent += data
		length := r.image.Len(0)
		symbol := float64(length) / float64(symbolsOf(length))
		r.Blocks += symbol * float64(st.Symbols-st.Parity-st.Repairs)
		r.Parity += symbol * float64(st.Parity)
		r.Repairs += symbol * float64(st.Repairs)
		r.Control += float64(s.SentBytes) - data
	}
	var boots, waits []time.Duration
	var alive time.Duration
	packets := uint64(0)
	for _, p := range r.replays {
		waits = append(waits, p.Waits...)
		boots = append(boots, p.Ended.Sub(p.Joined))
		alive += crowd.world.Now().Sub(p.Joined)
		packets += p.SentPackets
		r.Control += float64(p.SentBytes)
	}
	r.Packets = float64(packets) / alive.Seconds()
	r.Boot = percentiles(boots, len(boots))
	r.Waits = percentiles(waits, len(waits))
	r.Reads = percentiles(waits, len(r.replays)*r.Trace)
	r.Waited = float64(len(waits)) / float64(len(r.replays)*r.Trace)
}

// percentiles returns three times of n, those that are not in the list being 0.
func percentiles(times []time.Duration, n int) (p [3]time.Duration) {
	slices.Sort(times)
	for i, q := range []float64{0.5, 0.99, 1} {
		if at := int(math.Ceil(q*float64(n))) - 1 - (n - len(times)); at >= 0 && at < len(times) {
			p[i] = times[at]
		}
	}
	return p
}

// joins is when client i is switched on, counted from when the first one is.
func (s *Storm) joins(i int) time.Duration {
	return s.Join * time.Duration(i) / time.Duration(s.Clients)
}

// LeastToSend is how many bytes of blocks any server has to send, of whatever protocol, so that the clients of this storm can use each block
// as soon as those of a like one did, or as one that was alone. A client can only use what is sent after it has joined, so each block goes
// out at the latest when it is first used by a client that was not there the last time (Eager, Vernon and Zahorjan 2001: about the
// logarithm of how many join while one runs, and not 1).
func (r *StormReport) LeastToSend(like *StormReport) float64 {
	least := 0.0
	r.sendings(like, func(length, _ int) { least += float64(length) })
	return least
}

// LeastWithLoss is LeastToSend where each client loses as many datagrams as here, with the best code there is: what a block is sent in has
// to go on until whoever loses most of all that it is sent for has as many symbols as make the block.
func (r *StormReport) LeastWithLoss(like *StormReport) float64 {
	least := 0.0
	type group struct{ length, clients int }
	expected := map[group]float64{}
	r.sendings(like, func(length, clients int) {
		g := group{length, clients}
		if _, ok := expected[g]; !ok {
			k := symbolsOf(length)
			expected[g] = float64(length) / float64(k) * expectedSymbols(k, clients, r.Loss)
		}
		least += expected[g]
	})
	return least
}

// sendings calls each with the length of each block as often as it has to be sent, and how many clients that is for.
func (r *StormReport) sendings(like *StormReport, each func(length, clients int)) {
	type stay struct{ from, to time.Duration }
	stays := make([]stay, r.Clients)
	for n, block := range r.trace.Blocks {
		for i := range stays {
			from := r.joins(i)
			stays[i] = stay{from, from + like.replays[i%len(like.replays)].Used[n]}
		}
		slices.SortFunc(stays, func(a, b stay) int { return cmp.Compare(a.to, b.to) })
		sent, clients := time.Duration(-1), 0
		for _, s := range stays {
			if s.from > sent {
				if clients > 0 {
					each(r.image.Len(block), clients)
				}
				sent, clients = s.to, 0
			}
			clients++
		}
		each(r.image.Len(block), clients)
	}
}

// expectedSymbols is how many symbols have to be sent on average until each of n clients has got k, of which each loses the part loss.
func expectedSymbols(k, n int, loss float64) float64 {
	expected := float64(k)
	for sent := k; ; sent++ {
		// Whether one client has got enough: it has lost no more than what is over.
		enough, exactly := 0.0, math.Pow(1-loss, float64(sent))
		for lost := range sent - k + 1 {
			enough += exactly
			exactly *= float64(sent-lost) / float64(lost+1) * loss / (1 - loss)
		}
		more := 1 - math.Pow(min(enough, 1), float64(n))
		if more < 1e-9 {
			return expected
		}
		expected += more
	}
}
