package mcast

import (
	"bytes"
	"testing"

	"github.com/dnbd/dnbd/internal/wire"
)

// A train is sent with one call if all its datagrams are as long as the first, but for the last.
func TestTrainsGoOverTheEndsOfBlocks(t *testing.T) {
	const blockSize = 16 << 10 // 15 symbols of 1093 bytes, the last of 1082
	i := newTestImage(20*blockSize, blockSize)
	s := newTestSender(1, i)
	got := map[uint32]*assembly{}
	answer(t, s, epoch, addr(9), s.ask(addr(9), 0, run(0, 20, wire.Bulk)))
	now, trains, padded := epoch, 0, 0
	for {
		i.load(s)
		b := s.NextBurst(now)
		if b == nil {
			if !s.hasReady() {
				break
			}
			_, now = s.pace.ready(now)
			continue
		}
		trains++
		for n, datagram := range b.datagrams() {
			var d wire.Data
			payload, err := wire.ParseData(datagram, &d)
			if err != nil {
				t.Fatal(err)
			}
			l := newLayout(blockSize, s.exports[1].maxSymbol)
			if len(payload) != l.size && (n < len(b.Headers)-1 || len(payload) != l.sizeOf(int(d.Index))) {
				t.Fatalf("datagram %d of %d has %d bytes of symbol %d", n, len(b.Headers), len(payload), d.Index)
			}
			if len(payload) > l.sizeOf(int(d.Index)) {
				padded++
			}
			a := got[d.Block]
			if a == nil {
				a = &assembly{layout: l, data: make([]byte, blockSize), have: make([]int, l.gens)}
				got[d.Block] = a
			}
			if !a.add(int(d.Index), payload) {
				t.Errorf("symbol %d of block %d is not taken", d.Index, d.Block)
			}
		}
	}
	for n := range uint32(20) {
		if a := got[n]; a == nil || a.missing() > 0 || !bytes.Equal(a.data, i.block(n)) {
			t.Errorf("block %d is not what was sent", n)
		}
	}
	if trains > 10 || padded == 0 {
		t.Errorf("%d trains for 20 blocks, in which %d symbols are padded", trains, padded)
	}
}
