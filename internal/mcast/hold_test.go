package mcast

import (
	"slices"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// crowded returns a Sender that has just sent block 0 to some clients, and when.
func crowded(t *testing.T, i *testImage, clients byte) (s *Sender, now time.Time) {
	t.Helper()
	s = newTestSender(1, i)
	for n := range clients {
		answer(t, s, epoch, addr(n+1), s.ask(addr(n+1), 0, run(0, 1, wire.Demand)))
	}
	if got := order(t, i.drain(s, epoch)); !slices.Equal(got, []uint32{0}) {
		t.Fatalf("sent %v", got)
	}
	return s, s.exports[1].sent[0].whole
}

// later asks for block 0 for a client that came after it was sent.
func later(t *testing.T, s *Sender, now time.Time, client byte) {
	t.Helper()
	if ack := answer(t, s, now, addr(client), s.ask(addr(client), int(s.exports[1].seq), run(0, 1, wire.Demand))); ack.Queued != 1 {
		t.Errorf("client %d is told %+v", client, ack)
	}
	if err := s.check(now); err != nil {
		t.Error(err)
	}
}

func TestACrowdIsSentABlockAgainForAllWhoComeInAWhile(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s, sent := crowded(t, i, repeatFew)
	due := sent.Add(repeatPause)
	for n := range time.Duration(3) {
		now := sent.Add((n + 1) * repeatPause / 4)
		later(t, s, now, byte(repeatFew+1+n))
		s.Tick(now)
		if got := order(t, i.drain(s, now)); len(got) > 0 {
			t.Fatalf("sent %v after %v", got, now.Sub(sent))
		}
	}
	if next := s.Next(sent); next.After(due) {
		t.Errorf("goes on after %v", next.Sub(sent))
	}
	s.Tick(due)
	if got := order(t, i.drain(s, due)); !slices.Equal(got, []uint32{0}) {
		t.Errorf("sent %v", got)
	}
	if err := s.check(due); err != nil {
		t.Error(err)
	}

	// Who comes when nobody has for a while is sent it at once.
	now := due.Add(2 * repeatPause)
	later(t, s, now, 100)
	if got := order(t, i.drain(s, now)); !slices.Equal(got, []uint32{0}) {
		t.Errorf("sent %v", got)
	}
}

func TestAFewAreSentABlockAgainAtOnce(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	s, sent := crowded(t, i, repeatFew-1)
	later(t, s, sent, repeatFew)
	if got := order(t, i.drain(s, sent)); !slices.Equal(got, []uint32{0}) {
		t.Errorf("sent %v", got)
	}
}

func TestWhatIsHeldGoesWithTheImageOrTheClient(t *testing.T) {
	i := newTestImage(100<<12, 4<<10)
	for name, end := range map[string]func(s *Sender){
		"the image is withdrawn": func(s *Sender) { s.SetState(1, wire.ImageWithdrawn) },
		"the client is gone":     func(s *Sender) { s.forget(s.peers[addr(100)]) },
	} {
		s, sent := crowded(t, i, repeatFew)
		later(t, s, sent, 100)
		end(s)
		due := sent.Add(repeatPause)
		s.Tick(due)
		if got := order(t, i.drain(s, due)); len(got) > 0 {
			t.Errorf("%s: sent %v", name, got)
		}
		if err := s.check(due); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(s.held) > 0 {
			t.Errorf("%s: %d held", name, len(s.held))
		}
	}
}
