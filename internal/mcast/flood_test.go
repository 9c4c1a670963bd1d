package mcast

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// grown is how many bytes more are in use after f than before.
func grown(f func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// stranger is one of 2^32 addresses.
func stranger(n uint32) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), 10810)
}

// noise is a datagram of a type with random contents of a random length.
func noise(rng *rand.Rand, t wire.Type) []byte {
	b := make([]byte, 4+rng.IntN(wire.MaxControlSize-4))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	copy(b, []byte{0x44, 0x4e, wire.Version, byte(t)})
	return b
}

// Nobody can have a server send more to an address than came from there, or in its name, before the address has proved itself.
func TestWithoutItsCookieAnAddressIsSentNoMoreThanItSent(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s := newTestSender(1, i)
	s.Tick(epoch)
	s.Packets()
	rng := rand.New(rand.NewPCG(1, 1))
	check := func(what string, from netip.AddrPort, b []byte) {
		s.Input(epoch, from, b)
		n := 0
		for _, p := range s.Packets() {
			if p.To != from {
				t.Errorf("%s: sent to %v", what, p.To)
			}
			n += len(p.Data)
		}
		if n > len(b) {
			t.Errorf("%s of %d bytes is answered with %d", what, len(b), n)
		}
		if len(s.peers) > 0 || len(s.Loads()) > 0 {
			t.Fatalf("%s made a client", what)
		}
	}
	for n := range uint32(5000) {
		from := stranger(n)
		other := s.jar.cookie(stranger(n + 1))
		hello := wire.Hello{Nonce: rng.Uint64(), Cookie: other, Want: wire.HelloWant(n % 3), ID: i.desc.ID(), Name: i.desc.Name}
		check("a HELLO", from, hello.Append(nil))
		want := s.ask(from, int(n), wire.Range{Block: n % 100, Count: 1})
		want.Cookie = other
		check("a WANT", from, want.Append(nil))
		want.Cookie, want.Epoch = s.jar.cookie(from), want.Epoch+1
		check("a WANT of another epoch", from, want.Append(nil))
		want.Ranges = nil
		check("a report of another epoch", from, want.Append(nil))
		check("noise", from, noise(rng, wire.Type(n%9)))
	}
}

// A host that receives at as many addresses as it likes asks for all that it can.
func TestAServersMemoryIsBoundedWhoeverAsks(t *testing.T) {
	i := newTestImage(1<<32, 4<<10)
	s := newTestSender(1, i)
	s.cfg.Release = func([]byte) {}
	now := epoch
	n := grown(func() {
		for c := range uint32(maxPeers + 2000) {
			from := stranger(c)
			w := s.ask(from, 0, wire.Range{Block: c * 4096 % (1 << 20), Count: 1000, Priority: wire.Bulk})
			s.Input(now, from, w.Append(nil))
			if len(s.peers) > maxPeers || s.jobs() > maxJobs+maxPeers*fewQueued {
				t.Fatalf("%d clients and %d blocks after %d", len(s.peers), s.jobs(), c)
			}
			s.Packets()
			now = now.Add(time.Millisecond)
		}
	})
	t.Logf("%d clients, %d blocks queued: %d MiB", len(s.peers), s.jobs(), n>>20)
	if limit := int64(512 << 20); n > limit {
		t.Errorf("%d MiB in use, more than %d", n>>20, limit>>20)
	}

	// All the same somebody new can read.
	reader := addr(77)
	w := s.ask(reader, 0, wire.Range{Block: 999_999, Count: 2})
	if ack := answer(t, s, now.Add(quietAge), reader, w); ack.Queued != 2 {
		t.Errorf("a new client: %+v", ack)
	}
	runtime.KeepAlive(s)
}

// Everything that a client can be sent, in the name of its server and of strangers, of every type, random and as if it were true.
func TestAReceiversMemoryIsBoundedWhateverArrives(t *testing.T) {
	i := newTestImage(1<<32, 1<<20)
	s := newTestSender(1, i)
	r := newTestReceiver(i)
	meetServer(t, r, s, epoch, 1)
	rng := rand.New(rand.NewPCG(1, 2))
	offer := i.export(1).Offer
	now := epoch
	n := grown(func() {
		for c := range uint32(20_000) {
			now = now.Add(20 * time.Microsecond)
			from := stranger(rng.Uint32())
			k := layoutOfBlock(t, i).k
			d := wire.Data{
				Server: 1, Handle: 1, Epoch: s.cfg.Epoch, Seq: rng.Uint64N(wire.MaxSeq), Block: rng.Uint32N(i.geometry.Data()),
				Index: uint16(rng.IntN(6 * 256)), K: uint16(k), Left: uint8(rng.Uint32()), Class: wire.Priority(rng.IntN(3)),
			}
			r.Input(now, addr(1), append(d.AppendHeader(nil), make([]byte, layoutOfBlock(t, i).size)...))
			d.Epoch = rng.Uint32()
			r.Input(now, from, d.AppendHeader(nil))
			w := wire.Welcome{
				Server: uint16(c), Epoch: c, Nonce: r.greeter.nonce(from), Cookie: rng.Uint64(), Parts: 1, Offers: []wire.Offer{offer},
			}
			r.Input(now, from, w.Append(nil)) // as a server that was asked can
			w.Nonce, w.Parts, w.Offers = r.asked, 0, nil
			r.Input(now, from, w.Append(nil))
			a := wire.Announce{Server: uint16(c), Epoch: c, Images: []wire.AnnouncedImage{{Handle: 1, Tag: tag(r.cfg.ID)}}}
			r.Input(now, from, a.Append(nil))
			r.Input(now, addr(1), noise(rng, wire.Type(c%9)))
			if c%64 == 0 {
				r.Want(now, rng.Uint32N(i.geometry.Data()), wire.Demand)
			}
			if c%64 == 1 { // what a reader wanted it waits for, up to a bound of its own
				for block := range r.wants {
					r.Cancel(block)
				}
			}
			r.Step(now)
			r.Packets()
			for _, b := range r.Blocks() {
				r.Recycle(b.Data)
			}
			if len(r.replicas) > maxReplicas || len(r.greeter.greetings) > maxReplicas {
				t.Fatalf("%d replicas, %d greetings", len(r.replicas), len(r.greeter.greetings))
			}
		}
	})
	held := int64(strayBytes + r.cfg.Window + i.desc.BlockSize)
	t.Logf("%d replicas, %d blocks incomplete: %d MiB", len(r.replicas), len(r.asms), n>>20)
	// The data of blocks, as much parity again, and the buffers that are kept for the next.
	if limit := 2*held + 64*int64(i.desc.BlockSize) + 8<<20; n > limit {
		t.Errorf("%d MiB in use, more than %d", n>>20, limit>>20)
	}
	if err := r.check(now); err != nil {
		t.Error(err)
	}
	runtime.KeepAlive(r)
}

func layoutOfBlock(t *testing.T, i *testImage) layout {
	t.Helper()
	return newLayout(i.geometry.Len(0), 1200-wire.DataHeaderSize)
}

// A server that brings blocks is not kept out by those that only say that they would.
func TestAServerFindsAPlaceAmongPretenders(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s := newTestSender(1, i)
	r := newTestReceiver(i)
	offer := i.export(1).Offer
	pretend := func(n uint32) {
		from := stranger(n)
		w := wire.Welcome{Server: uint16(n), Epoch: n, Nonce: r.greeter.nonce(from), Cookie: 1, Parts: 1, Offers: []wire.Offer{offer}}
		r.Input(epoch, from, w.Append(nil))
	}
	for n := range uint32(maxReplicas) {
		pretend(1000 + n)
	}
	s.Tick(epoch) // it announces itself
	for range 3 {
		for _, p := range s.Packets() {
			r.Input(epoch, addr(1), p.Data)
		}
		for _, p := range r.Packets() {
			if p.To == addr(1) {
				s.Input(epoch, addr(9), p.Data)
			}
		}
	}
	p := r.replica(addr(1), 1, s.cfg.Epoch)
	if p == nil {
		t.Fatal("there was no place for it")
	}
	p.blocks = 1
	for n := range uint32(10 * maxReplicas) {
		pretend(2000 + n)
	}
	if r.replica(addr(1), 1, s.cfg.Epoch) != p {
		t.Error("a server that has brought a block gave way to one that has brought none")
	}
}

// What a Finder hears last is there, however much was made up before.
func TestAFinderFindsWhatIsOfferedAfterAFlood(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	f := NewFinder(epoch, testGroup, wire.Hello{Nonce: 5})
	n := grown(func() {
		for n := range uint32(10 * maxFound) {
			o := i.export(uint16(n)).Offer
			o.Revision, o.Signature = uint64(n), make([]byte, wire.MaxSignature)
			w := wire.Welcome{Server: uint16(n), Epoch: n, Nonce: 5, Cookie: 1, Parts: 1, Offers: []wire.Offer{o}}
			f.Input(epoch, stranger(n%100), w.Append(nil))
			f.Packets()
		}
	})
	o := i.export(1).Offer
	w := wire.Welcome{Server: 1, Epoch: 1, Nonce: 5, Cookie: 1, Parts: 1, Offers: []wire.Offer{o}}
	f.Input(epoch, addr(1), w.Append(nil))
	found := f.Found()
	if len(found) > maxFound || len(f.servers) > maxReplicas {
		t.Errorf("%d images of %d servers", len(found), len(f.servers))
	}
	if limit := int64(16 << 20); n > limit {
		t.Errorf("%d MiB in use, more than %d", n>>20, limit>>20)
	}
	for _, x := range found {
		if x.Addr == addr(1) {
			return
		}
	}
	t.Error("the image that was offered last was not found")
}
