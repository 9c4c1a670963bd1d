package mcast

import (
	"net/netip"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// meet carries datagrams between a Finder at addr(9) and Senders, by id, until nobody has anything to say.
func meet(f *Finder, now time.Time, senders map[byte]*Sender) {
	for {
		f.Step(now)
		packets := f.Packets()
		for _, p := range packets {
			for id, s := range senders {
				if p.To == testGroup || p.To == addr(id) {
					s.Input(now, addr(9), p.Data)
				}
			}
		}
		quiet := len(packets) == 0
		for id, s := range senders {
			for _, p := range s.Packets() {
				f.Input(now, addr(id), p.Data)
				quiet = false
			}
		}
		if quiet {
			return
		}
	}
}

func TestAFinderFindsWhatIsOffered(t *testing.T) {
	a, b := newTestImage(10<<12, 4<<10), newTestImage(20<<12, 4<<10)
	b.desc.Name, b.desc.Revision = "other", 2
	senders := map[byte]*Sender{1: newTestSender(1, a), 2: newTestSender(2, a)}
	e := b.export(2)
	e.Offer.Revision = 2
	senders[2].Add(e)
	f := NewFinder(epoch, testGroup, wire.Hello{Nonce: 77})
	meet(f, epoch, senders)
	found := f.Found()
	if len(found) != 3 {
		t.Fatalf("found %+v", found)
	}
	for i, want := range []struct {
		name   string
		server uint16
	}{{"other", 2}, {"test", 1}, {"test", 2}} {
		if x := found[i]; x.Descriptor.Name != want.name || x.Server != want.server || x.Addr != addr(byte(want.server)) || x.Group != dataGroup {
			t.Errorf("%d: %+v, want %+v", i, x, want)
		}
	}
	if found[0].Descriptor.ID() != b.desc.ID() {
		t.Error("the id is another")
	}
	if n := len(f.Servers()); n != 2 {
		t.Errorf("%d servers", n)
	}
}

func TestAFinderHearsOfServersThatComeAndGo(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	f := NewFinder(epoch, testGroup, wire.Hello{Nonce: 77})
	f.Step(epoch)
	f.Packets() // nobody is there
	s := newTestSender(1, i)
	now := epoch.Add(10 * time.Millisecond)
	s.Tick(now)
	senders := map[byte]*Sender{1: s}
	meet(f, now, senders)
	if n := len(f.Found()); n != 1 {
		t.Fatalf("%d images after its announcement", n)
	}
	// Started anew, under another epoch.
	s = newTestSender(1, i)
	s.cfg.Epoch = 999
	s.jar = newCookieJar([32]byte{7}, 999)
	now = now.Add(2 * time.Second)
	s.Tick(now)
	meet(f, now, map[byte]*Sender{1: s})
	if found := f.Found(); len(found) != 1 || found[0].Epoch != 999 {
		t.Errorf("after a new start: %+v", found)
	}
	s.Leave()
	meet(f, now, map[byte]*Sender{1: s})
	if n := len(f.Found()); n != 0 {
		t.Errorf("%d images after it left", n)
	}
}

func TestAFinderAsksEverMoreRarely(t *testing.T) {
	f := NewFinder(epoch, testGroup, wire.Hello{Nonce: 77})
	now, asked := epoch, 0
	for now.Sub(epoch) < 10*time.Second {
		f.Step(now)
		for _, p := range f.Packets() {
			if p.To != testGroup {
				t.Errorf("asked %v", p.To)
			}
			asked++
		}
		if !f.Next().After(now) {
			t.Fatal("nothing to wait for")
		}
		now = f.Next()
	}
	if asked < 10 || asked > 16 {
		t.Errorf("asked %d times in 10 s", asked)
	}
}

func TestStrangersCannotFillAFinder(t *testing.T) {
	f := NewFinder(epoch, testGroup, wire.Hello{Nonce: 77})
	e := newTestImage(10<<12, 4<<10).export(1)
	for n := range uint32(10_000) {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, byte(n >> 8), byte(n)}), 10810)
		a := wire.Announce{Server: uint16(n), Epoch: n}
		f.Input(epoch, from, a.Append(nil))
		e.Offer.Handle = uint16(n)
		for _, nonce := range []uint64{77, 78} {
			w := wire.Welcome{Server: uint16(n), Nonce: nonce, Parts: 1, Offers: []wire.Offer{e.Offer}}
			f.Input(epoch, from, w.Append(nil))
		}
	}
	if len(f.found) > maxFound || len(f.servers) > maxReplicas || len(f.greeter.greetings) > maxReplicas {
		t.Errorf("%d images, %d servers, %d greeted", len(f.found), len(f.servers), len(f.greeter.greetings))
	}
}
