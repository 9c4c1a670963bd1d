package mcast

import (
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// A client that was cut off while a block was sent, and for as long after as the stream's last number was repeated, learns of its loss all
// the same.
func TestAClientThatMissedTheLastTailMarkIsToldWhereTheStreamIs(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	s := newTestSender(1, i)
	answer(t, s, epoch, addr(9), s.ask(addr(9), 0, run(3, 1, wire.Demand)))
	i.drain(s, epoch)
	now := epoch
	for range 1000 { // tail marks, all lost
		now = now.Add(100 * time.Millisecond)
		s.Tick(now)
		s.NextBurst(now)
	}
	if s.NextBurst(now) != nil {
		t.Fatal("the tail marks do not end")
	}
	if ack := answer(t, s, now, addr(9), s.ask(addr(9), 0, run(3, 1, wire.Demand))); ack.InFlight != 1 {
		t.Fatalf("%+v", ack)
	}
	if next := s.Next(now); next.After(now) {
		t.Errorf("the sender has nothing to do before %v", next)
	}
	b := s.NextBurst(now)
	if b == nil {
		t.Fatal("nothing tells the client that the block has gone by")
	}
	var d wire.Data
	if _, err := wire.ParseData(b.datagrams()[0], &d); err != nil || d.K != 0 || d.Seq != s.exports[1].seq {
		t.Fatalf("%+v, %v", d, err)
	}
	if s.NextBurst(now.Add(time.Minute)) != nil {
		t.Error("one request brings more than one tail mark")
	}
	if ack := answer(t, s, now, addr(9), s.ask(addr(9), int(d.Seq), run(3, 1, wire.Demand))); ack.Queued != 1 {
		t.Errorf("%+v", ack)
	}
}
