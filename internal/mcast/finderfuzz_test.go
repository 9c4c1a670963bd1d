package mcast

import (
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// FuzzFinder: whatever arrives, a Finder remembers and asks no more than its bounds, and names a time that is to come.
func FuzzFinder(f *testing.F) {
	offer := newTestImage(10<<12, 4<<10).export(1).Offer
	welcome := wire.Welcome{Server: 1, Epoch: 2, Nonce: 7, Cookie: 3, Parts: 1, Offers: []wire.Offer{offer}}
	announce := wire.Announce{Server: 1, Epoch: 2, Images: []wire.AnnouncedImage{{Handle: 1}}}
	f.Add(welcome.Append(nil), []byte{}, byte(1), uint16(10))
	f.Add(announce.Append(nil), welcome.Append(nil), byte(2), uint16(1000))
	f.Add([]byte{0x44, 0x4e, 1, 2}, []byte{}, byte(0), uint16(0))
	f.Fuzz(func(t *testing.T, one, two []byte, from byte, millis uint16) {
		finder := NewFinder(epoch, testGroup, wire.Hello{Nonce: 7})
		now := epoch
		sent := 0
		for i := range 200 {
			finder.Input(now, addr(from+byte(i)), one)
			finder.Input(now, addr(from+byte(i)), two)
			finder.Step(now)
			sent += len(finder.Packets())
			if next := finder.Next(); !next.After(now) {
				t.Fatalf("the next step is due at %v, now is %v", next, now)
			}
			now = now.Add(time.Duration(millis) * time.Millisecond)
		}
		if len(finder.servers) > maxReplicas || len(finder.greeter.greetings) > maxReplicas || len(finder.Found()) > maxFound {
			t.Errorf("%d servers, %d greeted, %d images", len(finder.servers), len(finder.greeter.greetings), len(finder.found))
		}
		if sent > 200*20 {
			t.Errorf("%d questions for 400 datagrams", sent)
		}
	})
}
