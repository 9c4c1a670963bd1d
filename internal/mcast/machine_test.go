package mcast

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/wire"
)

var (
	testGroup = netip.MustParseAddrPort("239.0.0.1:10810")
	dataGroup = netip.MustParseAddrPort("239.0.7.7:10810")
	epoch     = time.Unix(1_000_000_000, 0) // when tests start
)

// testImage is an image of a few blocks of 4 KiB whose bytes follow from their numbers. With symbols of at most 1170 bytes, the least
// that a MaxPayload of 1200 allows, a block has 4 of them.
type testImage struct {
	geometry image.Geometry
	desc     image.Descriptor
}

func newTestImage(size int64, blockSize int) *testImage {
	d := image.Descriptor{Name: "test", Revision: 1, Size: size, BlockSize: blockSize}
	g, err := d.Geometry()
	if err != nil {
		panic(err)
	}
	return &testImage{g, d}
}

func (i *testImage) block(n uint32) []byte {
	b := make([]byte, i.geometry.Len(n))
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(b)
	return b
}

func (i *testImage) export(handle uint16) Export {
	log := uint8(0)
	for 1<<log < i.desc.BlockSize {
		log++
	}
	return Export{
		ID: i.desc.ID(), Blocks: i.geometry.Total(), Length: i.geometry.Len,
		Offer: wire.Offer{
			Handle: handle, Algorithm: image.AlgorithmBLAKE3, BlockLog: log, Size: uint64(i.desc.Size), Revision: 1,
			Name: i.desc.Name, Group: dataGroup,
		},
	}
}

// addr is the address of a numbered host.
func addr(n byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 10810)
}

var coder = NewCoder()

// newTestSender returns a Sender with the id, at addr(id), that offers the image under handle 1.
func newTestSender(id uint16, i *testImage) *Sender {
	s := NewSender(SenderConfig{
		Server: id, Epoch: 100 + uint32(id), Secret: [32]byte{byte(id)}, Group: testGroup, MaxPayload: 1200, Rate: 1e9, Coder: coder,
	})
	s.Add(i.export(1))
	return s
}

// newTestReceiver returns a Receiver of the image that keeps everything.
func newTestReceiver(i *testImage) *Receiver {
	return NewReceiver(epoch, ReceiverConfig{
		ID: i.desc.ID(), Blocks: i.geometry.Total(), Length: i.geometry.Len, Keep: func(uint32) bool { return true },
		Group: testGroup, Window: 64 << 10, Coder: coder, Rand: rand.New(rand.NewPCG(1, 2)),
	})
}

// load reads every block that the Sender asks for.
func (i *testImage) load(s *Sender) {
	for loads := s.Loads(); len(loads) > 0; loads = s.Loads() {
		for _, l := range loads {
			s.Loaded(l, i.block(l.Block), nil)
		}
	}
}

// datagrams returns a burst as datagrams.
func (b *Burst) datagrams() [][]byte {
	var out [][]byte
	for i := range b.Headers {
		out = append(out, append(bytes.Clone(b.Headers[i]), b.Payloads[i]...))
	}
	return out
}

// drain returns all DATA that a Sender has to send, whatever its rate.
func (i *testImage) drain(s *Sender, now time.Time) [][]byte {
	var out [][]byte
	for range 100_000 {
		i.load(s)
		if b := s.NextBurst(now); b != nil {
			out = append(out, b.datagrams()...)
		} else if s.hasReady() {
			_, now = s.pace.ready(now)
		} else {
			return out
		}
	}
	panic("no end of DATA")
}

// cookie makes the Sender's cookie for an address.
func (s *Sender) cookie(a netip.AddrPort) uint64 { return s.jar.cookie(a) }

// ask is a WANT of a client that has heard the stream up to seen (never, if that is negative).
func (s *Sender) ask(from netip.AddrPort, seen int, ranges ...wire.Range) wire.Want {
	w := wire.Want{
		Server: s.cfg.Server, Handle: 1, Epoch: s.cfg.Epoch, Cookie: s.cookie(from), Time: 7,
		Joined: seen >= 0, Seen: uint64(max(seen, 0)), Ranges: ranges,
	}
	return w
}

// answer hands the Sender a WANT and returns its ACK.
func answer(t testing.TB, s *Sender, now time.Time, from netip.AddrPort, w wire.Want) wire.Ack {
	t.Helper()
	s.Input(now, from, w.Append(nil))
	for _, p := range s.Packets() {
		if p.To == from {
			ack, err := wire.ParseAck(p.Data)
			if err != nil {
				t.Fatalf("the answer is no ACK: %x, %v", p.Data, err)
			}
			return ack
		}
	}
	t.Fatal("no answer")
	return wire.Ack{}
}

// symbols is which symbols of which blocks datagrams carry: block, then the symbols' indexes.
func symbols(t testing.TB, datagrams [][]byte) map[uint32][]int {
	t.Helper()
	out := map[uint32][]int{}
	for _, b := range datagrams {
		var d wire.Data
		if _, err := wire.ParseData(b, &d); err != nil {
			t.Fatal(err)
		}
		if d.K > 0 {
			out[d.Block] = append(out[d.Block], int(d.Index))
		}
	}
	return out
}

// check returns an error if the Sender's books do not agree.
func (s *Sender) check(now time.Time) error {
	ahead, aheadBytes := 0, 0
	for handle, e := range s.exports {
		var queued [wire.Classes]int
		for block, j := range e.wanted {
			queued[j.class] += j.symbolsLeft()
			if !j.waits() {
				ahead++
				aheadBytes += e.Length(block)
			}
		}
		if queued != e.queued {
			return fmt.Errorf("image %d: %v symbols in the jobs, %v in the books", handle, queued, e.queued)
		}
		if len(e.sent) > maxSent || len(e.order) > maxSent {
			return fmt.Errorf("image %d: %d blocks remembered", handle, len(e.sent))
		}
	}
	if ahead != s.ahead || aheadBytes != s.aheadBytes {
		return fmt.Errorf("%d jobs of %d bytes loaded, %d of %d in the books", ahead, aheadBytes, s.ahead, s.aheadBytes)
	}
	live := 0
	for slot, p := range s.sched.peers {
		if p == nil {
			continue
		}
		live++
		if p.slot != slot || s.peers[p.addr] != p {
			return fmt.Errorf("peer %v in slot %d", p.addr, slot)
		}
		queued := 0
		for _, e := range s.exports {
			for _, j := range e.wanted {
				if j.waits() && j.wanters.has(slot) {
					queued++
				}
			}
		}
		if queued != p.queued {
			return fmt.Errorf("%d jobs queued for peer %v, %d in the books", queued, p.addr, p.queued)
		}
	}
	if live != s.sched.live || live != len(s.peers) {
		return fmt.Errorf("%d peers, %d live, %d by address", live, s.sched.live, len(s.peers))
	}
	return nil
}

// check returns an error if the Receiver's books do not agree, or its memory is not bounded.
func (r *Receiver) check(now time.Time) error {
	outstanding := 0
	for block, w := range r.wants {
		if block >= r.cfg.Blocks {
			return fmt.Errorf("block %d is wanted", block)
		}
		if w.state != wantIdle {
			outstanding += w.length
			found := false
			for _, p := range r.replicas {
				found = found || p == w.from
			}
			if !found {
				return fmt.Errorf("block %d was asked of a server that is forgotten", block)
			}
		}
	}
	if outstanding != r.outstanding {
		return fmt.Errorf("%d bytes asked for, %d in the books", outstanding, r.outstanding)
	}
	for place, w := range r.awaited {
		if w.place != place || w.state == wantIdle || r.wants[w.block] != w {
			return fmt.Errorf("block %d is awaited in place %d", w.block, place)
		}
	}
	held := 0
	for block, a := range r.asms {
		if a.block != block || len(a.data) != r.cfg.Length(block) {
			return fmt.Errorf("assembly of block %d under %d with %d bytes", a.block, block, len(a.data))
		}
		held += a.layout.length
		if a.missing() == 0 {
			return fmt.Errorf("block %d is complete and kept back", block)
		}
	}
	if len(r.strays) > 2*len(r.asms)+65 {
		return fmt.Errorf("%d assemblies in order, of %d", len(r.strays), len(r.asms))
	}
	if held != r.held {
		return fmt.Errorf("%d bytes in assemblies, %d in the books", held, r.held)
	}
	if most := strayBytes + r.cfg.Window + 2*r.cfg.Length(0) + outstanding; held > most {
		return fmt.Errorf("%d bytes in assemblies, %d at most", held, most)
	}
	if len(r.replicas) > maxReplicas || len(r.greeter.greetings) > maxReplicas {
		return fmt.Errorf("%d replicas, %d greeted", len(r.replicas), len(r.greeter.greetings))
	}
	for _, p := range r.replicas {
		if len(p.unanswered) > maxUnanswered {
			return fmt.Errorf("%d answers of server %d awaited", len(p.unanswered), p.id)
		}
	}
	left := 0
	for i := r.bulk.next(0); i >= 0; i = r.bulk.next(i + 1) {
		left++
	}
	if left != r.bulkLeft {
		return fmt.Errorf("%d blocks wanted in bulk, %d in the books", left, r.bulkLeft)
	}
	if !r.stirred && !r.next.After(now) {
		return fmt.Errorf("the next step is due at %v, now is %v", r.next, now)
	}
	return nil
}
