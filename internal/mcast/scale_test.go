package mcast

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// crowd makes a Sender know that many clients.
func crowd(s *Sender, now time.Time, clients int) []netip.AddrPort {
	addrs := make([]netip.AddrPort, clients)
	for i := range addrs {
		addrs[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 10810)
		w := s.ask(addrs[i], 0)
		s.Input(now, addrs[i], w.Append(nil))
	}
	s.Packets()
	return addrs
}

// BenchmarkWant is what a server pays for a request and for the block that it sends then, by the number of clients that it knows.
func BenchmarkWant(b *testing.B) {
	for _, clients := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			const blocks = 1000
			image := newTestImage(blocks<<12, 4<<10)
			s := newTestSender(1, image)
			now := epoch
			addrs := crowd(s, now, clients)
			bytes := image.block(0)
			for n := range b.N {
				from := addrs[n%clients]
				w := s.ask(from, int(s.exports[1].seq), run(uint32(n%blocks), 1, wire.Demand))
				w.Received = uint32(w.Seen)
				s.Input(now, from, w.Append(nil))
				for _, l := range s.Loads() {
					s.Loaded(l, bytes, nil)
				}
				s.pace.tokens = 1 << 20 // the rate is not what is measured
				for s.NextBurst(now) != nil {
				}
				s.Packets()
				s.Tick(now)
			}
		})
	}
}

// BenchmarkSymbols is what a client pays for a symbol: of a block that it takes, and of one that it does not.
func BenchmarkSymbols(b *testing.B) {
	for _, keep := range []bool{true, false} {
		b.Run(fmt.Sprintf("keep=%v", keep), func(b *testing.B) {
			image := newTestImage(64<<20, 64<<10)
			r := newTestReceiver(image)
			r.cfg.Keep = func(uint32) bool { return keep }
			r.replicas = []*replica{{id: 1, epoch: 1, addr: addr(1), handle: 1, group: dataGroup, reportAt: epoch.Add(time.Hour), heard: epoch}}
			r.helloAt = epoch.Add(time.Hour)
			l := newLayout(64<<10, 1442)
			payload := make([]byte, 1442)
			var datagram []byte
			for n := range b.N {
				i := n % l.k
				from, to := l.span(i)
				d := wire.Data{
					Server: 1, Handle: 1, Epoch: 1, Seq: uint64(n + 1), Block: uint32(n / l.k % 1000),
					Index: uint16(i), K: uint16(l.k), Left: uint8(l.k - i - 1), Class: wire.Bulk,
				}
				datagram = append(d.AppendHeader(datagram[:0]), payload[:to-from]...)
				r.Input(epoch, addr(1), datagram)
				r.Step(epoch)
				for _, block := range r.Blocks() {
					r.Recycle(block.Data)
				}
			}
			b.ReportMetric(float64(r.stats.Overheard)/float64(b.N), "B/op-kept")
		})
	}
}

// BenchmarkParity is what a server pays for the parity of a block, by how many symbols of it.
func BenchmarkParity(b *testing.B) {
	l := newLayout(64<<10, 1442)
	block := make([]byte, l.length)
	for _, rows := range []int{1, 5, 20} {
		b.Run(fmt.Sprintf("symbols=%d", rows), func(b *testing.B) {
			indexes := make([]int, rows)
			for i := range indexes {
				indexes[i] = l.k + i
			}
			for range b.N {
				if _, err := coder.parity(l, block, indexes); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRestore is what a client pays for a block of which it lost some symbols.
func BenchmarkRestore(b *testing.B) {
	l := newLayout(64<<10, 1442)
	block := make([]byte, l.length)
	for _, lost := range []int{1, 5, 20} {
		b.Run(fmt.Sprintf("symbols=%d", lost), func(b *testing.B) {
			parity := map[int][]byte{}
			var indexes []int
			for i := range lost {
				indexes = append(indexes, l.k+i)
			}
			symbols, err := coder.parity(l, block, indexes)
			if err != nil {
				b.Fatal(err)
			}
			for i, index := range indexes {
				parity[index] = symbols[i]
			}
			got := func(i int) bool { return i%2 == 0 || i >= 2*lost }
			for range b.N {
				if err := coder.restore(l, block, got, parity); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
