package sim

import (
	"fmt"
	"math"
	"slices"
	"time"
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

// StormReport is what a Storm cost and how it was for those who waited. Three times are the median, the 99th percentile and the longest.
type StormReport struct {
	Storm
	Trace     int     // reads of each client
	Unique    int     // bytes of the blocks that a boot needs
	Sent      float64 // bytes of all data datagrams on the wire
	Control   float64 // bytes of all others on the wire, both ways
	Packets   float64 // control datagrams that a client sent in a second
	Reads     [3]time.Duration
	Waits     [3]time.Duration // of those reads that had to wait
	Waited    float64          // the part of all reads that these are
	Boot      [3]time.Duration
	Took      time.Duration // virtual
	ServerCPU time.Duration // real: the work of the servers' machines

	image  *Image
	needed map[uint32]time.Duration // when the first client had each block, counted from when it was switched on
}

// Run lets it happen. The error says that not every client booted within an hour, or that one got wrong bytes.
func (s Storm) Run() (*StormReport, error) {
	const (
		blockSize = 64 << 10
		window    = 4 << 20
	)
	trace, image := BootTrace(blockSize)
	w := NewWorld(s.Seed)
	out := &StormReport{Storm: s, Trace: len(trace.Reads), image: image, needed: map[uint32]time.Duration{}}
	var servers []*Server
	for i := range s.Servers {
		server := w.NewServer(uint16(i+1), image, 0, Link{Rate: s.Port, Delay: 50 * time.Microsecond, Loss: s.Loss})
		server.Cost = &out.ServerCPU
		servers = append(servers, server)
	}
	start := w.Now()
	crowd := w.NewCrowd(image, Link{Delay: 50 * time.Microsecond, Loss: s.Loss}, s.Clients)
	var waits []time.Duration
	replays := make([]*Replay, s.Clients)
	for i := range s.Clients {
		w.At(start.Add(time.Second+s.Join*time.Duration(i)/time.Duration(s.Clients)), func() {
			m := crowd.Join(window)
			replays[i] = m.Replay(trace, func(r int, took time.Duration) {
				waits = append(waits, took)
				for _, b := range trace.Reads[r].Blocks {
					if i == 0 {
						out.needed[b] = w.Now().Sub(m.Joined)
					}
				}
			})
		})
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
	out.measure(trace, image, servers, crowd, replays, waits)
	out.Took = w.Now().Sub(start)
	return out, nil
}

func (r *StormReport) measure(trace *Trace, image *Image, servers []*Server, crowd *Crowd, replays []*Replay, waits []time.Duration) {
	for _, b := range trace.Blocks {
		r.Unique += image.Len(b)
	}
	for _, s := range servers {
		data := float64(s.Sender.Stats().Bytes)
		r.Sent += data
		r.Control += float64(s.SentBytes) - data
	}
	var boots []time.Duration
	var alive time.Duration
	packets := uint64(0)
	for _, p := range replays {
		boots = append(boots, p.Ended.Sub(p.Joined))
		alive += crowd.world.Now().Sub(p.Joined)
		packets += p.SentPackets
		r.Control += float64(p.SentBytes)
	}
	r.Packets = float64(packets) / alive.Seconds()
	r.Boot = percentiles(boots, len(boots))
	r.Waits = percentiles(waits, len(waits))
	r.Reads = percentiles(waits, len(replays)*len(trace.Reads))
	r.Waited = float64(len(waits)) / float64(len(replays)*len(trace.Reads))
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

// LeastToSend is how many bytes of blocks any server has to send, of whatever protocol, so that no client has to wait longer than the one
// of alone did, when they join as in this storm. A client can only use what is sent after it has joined and before it needs it, so each
// block goes out at the latest when it is first needed by a client that was not there the last time (Eager, Vernon and Zahorjan 2001:
// about the logarithm of how many join while one runs, and not 1).
func (r *StormReport) LeastToSend(alone *StormReport) float64 {
	least := 0.0
	for block, need := range alone.needed {
		times, sent := 0, -time.Hour
		for i := range r.Clients {
			if joined := r.Join * time.Duration(i) / time.Duration(r.Clients); joined > sent {
				sent = joined + need
				times++
			}
		}
		least += float64(times * r.image.Len(block))
	}
	return least
}
