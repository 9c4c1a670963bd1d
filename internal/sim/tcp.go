package sim

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"
)

// TCP is a flow of data: CUBIC (RFC 9438) with Reno's growth where that is faster, selective acknowledgements, and a
// retransmission timeout. What was lost is not sent again but more is sent instead, which is the same to the network.
type TCP struct {
	*Node
	Delivered uint64 // bytes of payload that arrived

	to       netip.AddrPort
	offered  uint64 // bytes that are to arrive
	acked    uint64 // of them
	next     uint64 // number of the next segment
	flying   map[uint64]time.Time
	first    uint64 // the lowest that may be flying
	window   float64
	slow     float64 // slow start ends at this window
	most     float64 // window before the last loss
	since    time.Time
	recover  uint64 // losses below this number belong to the last one
	reno     float64
	rtt      time.Duration
	least    time.Duration // round trip
	careful  bool          // slow start ends when the delay grows, as by HyStart (RFC 9406)
	progress time.Time     // an acknowledgement came
}

// tcpSegment is the payload of a segment in bytes: with frame a full Ethernet frame.
const tcpSegment = 1472

// NewTCP starts a flow that always has data, from a node of its own to one with the link given. It ends with the world.
func (w *World) NewTCP(from, to Link) *TCP {
	t := w.connect(from, to, func() {})
	t.offer(math.MaxUint64)
	return t
}

// connect is a flow that has no data yet, and calls arrived when some has come.
func (w *World) connect(from, to Link, arrived func()) *TCP {
	t := &TCP{flying: map[uint64]time.Time{}, window: 10, slow: math.Inf(1), rtt: time.Millisecond, least: time.Hour, progress: w.now}
	t.Node = w.NewNode(from, t.acknowledged)
	var sink *Node
	sink = w.NewNode(to, func(from netip.AddrPort, data []byte) {
		t.Delivered += uint64(len(data))
		sink.Send(from, data[:8:8])
		arrived()
	})
	t.to = sink.Addr
	w.After(0, t.watch)
	return t
}

// offer gives the flow so many bytes more to send.
func (t *TCP) offer(bytes uint64) {
	t.offered += bytes
	t.world.After(0, t.fill)
}

// fill sends what the window allows.
func (t *TCP) fill() {
	if len(t.flying) == 0 {
		t.progress = t.world.now
	}
	for len(t.flying) < int(t.window) && t.acked+uint64(len(t.flying))*tcpSegment < t.offered {
		data := binary.BigEndian.AppendUint64(make([]byte, 0, tcpSegment), t.next)
		t.flying[t.next] = t.world.now
		t.next++
		t.Send(t.to, data[:tcpSegment])
	}
}

func (t *TCP) acknowledged(_ netip.AddrPort, data []byte) {
	n := binary.BigEndian.Uint64(data)
	sent, ok := t.flying[n]
	if !ok {
		return
	}
	now := t.world.now
	trip := now.Sub(sent)
	t.rtt += (trip - t.rtt) / 8
	if t.least = min(t.least, trip); t.careful && t.window < t.slow && trip > t.least+min(max(t.least/8, 4*time.Millisecond), 16*time.Millisecond) {
		t.slow, t.most, t.reno = t.window, t.window, t.window
		t.since = now.Add(-time.Duration(math.Cbrt(t.most*0.3/0.4) * float64(time.Second)))
	}
	t.progress = now
	t.acked += tcpSegment
	full := len(t.flying) >= int(t.window)
	delete(t.flying, n)
	// The network keeps the order: three later ones mean a loss.
	for ; t.first+3 <= n; t.first++ {
		if _, lost := t.flying[t.first]; lost {
			delete(t.flying, t.first)
			if t.first >= t.recover {
				t.cut(0.7)
			}
		}
	}
	if full {
		t.grow()
	}
	t.fill()
}

// cut takes in a loss.
func (t *TCP) cut(beta float64) {
	if t.window < t.most {
		t.most = t.window * (1 + beta) / 2 // another flow grows: leave it room
	} else {
		t.most = t.window
	}
	t.since, t.recover = t.world.now, t.next
	t.window = max(t.window*beta, 2)
	t.slow, t.reno = t.window, t.window
}

// grow takes in an acknowledgement.
func (t *TCP) grow() {
	if t.window < t.slow {
		t.window++
		return
	}
	at := t.world.now.Sub(t.since) + t.rtt
	cubic := 0.4*math.Pow(at.Seconds()-math.Cbrt(t.most*0.3/0.4), 3) + t.most
	t.reno += 3 * 0.3 / 1.7 / t.window
	if target := min(max(cubic, t.reno), 1.5*t.window); target > t.window {
		t.window += (target - t.window) / t.window
	}
}

// watch is the retransmission timer.
func (t *TCP) watch() {
	timeout := max(4*t.rtt, 200*time.Millisecond)
	if len(t.flying) == 0 {
		t.progress = t.world.now
	} else if t.world.now.Sub(t.progress) >= timeout {
		t.cut(0.7)
		clear(t.flying)
		t.first, t.window, t.progress = t.next, 1, t.world.now
		t.fill()
	}
	t.world.At(t.progress.Add(timeout), t.watch)
}
