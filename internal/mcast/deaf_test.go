package mcast

import (
	"slices"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// converse lets the two exchange control datagrams from now on for d, and returns how many blocks were asked for. No data arrives.
func converse(r *Receiver, s *Sender, now *time.Time, d time.Duration) (asked int) {
	client := addr(9)
	for end := now.Add(d); now.Before(end); *now = now.Add(5 * time.Millisecond) {
		r.Step(*now)
		for _, p := range r.Packets() {
			var w wire.Want
			if wire.ParseWant(p.Data, &w) == nil {
				for _, g := range w.Ranges {
					asked += int(g.Count)
				}
			}
			s.Input(*now, client, p.Data)
		}
		for _, p := range s.Packets() {
			r.Input(*now, addr(1), p.Data)
		}
	}
	return asked
}

func TestGrantsWithoutDataMakeAReceiverDeafAndDataEndsIt(t *testing.T) {
	r, s, now := newTestPair(t, 100)
	converse(r, s, &now, 10*time.Second)
	if r.Deaf() {
		t.Error("deaf without having asked for anything")
	}
	r.Want(now, 3, wire.Demand)
	for start := now; !r.Deaf(); {
		if now.Sub(start) > time.Second {
			t.Fatal("not deaf after a second of grants without data")
		}
		converse(r, s, &now, 5*time.Millisecond)
	}
	r.Input(now, addr(1), forge(s, 1, 50, 0))
	now = now.Add(deafMin)
	r.Step(now)
	if r.Deaf() {
		t.Error("deaf when data has arrived")
	}
}

// A network whose multicast comes and goes is left for longer each time, and one that has become steady is trusted again.
func TestAReceiverThatIsDeafAgainAndAgainReturnsLater(t *testing.T) {
	r, s, now := newTestPair(t, 100)
	r.Want(now, 3, wire.Demand)
	seq := uint64(0)
	// flap lets data fail to arrive until the receiver is deaf, and arrive until it is not, and returns how long it was.
	flap := func() time.Duration {
		for n := 0; !r.Deaf(); n++ {
			if n == 1000 {
				t.Fatal("not deaf after 5 s of grants without data")
			}
			converse(r, s, &now, 5*time.Millisecond)
		}
		began := now
		for n := 0; r.Deaf(); n++ {
			if n == 20_000 {
				t.Fatal("deaf for 1000 s though data arrives")
			}
			seq++
			r.Input(now, addr(1), forge(s, seq, 50, 0))
			r.Step(now)
			now = now.Add(50 * time.Millisecond)
		}
		return now.Sub(began)
	}
	var last time.Duration
	total, began := time.Duration(0), now
	for range 12 {
		d := flap()
		if want := min(2*last, retreatMax); d < want-100*time.Millisecond || d > max(want, deafMin)+100*time.Millisecond {
			t.Errorf("deaf for %v, after %v the time before", d, last)
		}
		last = d
		total += d
	}
	// What is lost is the time that it takes to find it out: it is to be little of the whole.
	if all := now.Sub(began); float64(all-total) > 0.02*float64(all) {
		t.Errorf("of %v the group was relied on for %v, in vain", all, all-total)
	}
	now = now.Add(steadyTimes*retreatMax + time.Second)
	if d := flap(); d > 2*deafMin {
		t.Errorf("deaf for %v after a long time in which data came", d)
	}
}

func TestASilentServerDoesNotMakeAReceiverDeaf(t *testing.T) {
	r, _, now := newTestPair(t, 100)
	r.Want(now, 3, wire.Demand)
	for range 1000 {
		now = now.Add(5 * time.Millisecond)
		r.Step(now)
		r.Packets()
	}
	if r.Deaf() {
		t.Error("deaf, but nobody has granted anything")
	}
}

func TestAReceiverThatSparesTheGroupAsksForABlockASecond(t *testing.T) {
	r, s, now := newTestPair(t, 1000)
	r.Spare(true)
	for block := range uint32(200) {
		r.Want(now, block, wire.Demand)
		r.WantBulk(now, 500+block)
	}
	if n := converse(r, s, &now, 10*time.Second); n < 5 || n > 11 {
		t.Errorf("asked for %d blocks in 10 s", n)
	}
	r.Spare(false)
	if n := converse(r, s, &now, time.Second); n < 200 {
		t.Errorf("asked for %d blocks in a second when it may again", n)
	}
}

func TestWhatIsSuppliedIsNoLongerLacking(t *testing.T) {
	i := newTestImage(1000<<12, 4<<10)
	r := newTestReceiver(i)
	r.Spare(true)
	r.WantBulk(epoch, 7)
	r.WantBulk(epoch, 2)
	r.Want(epoch, 9, wire.ReadAhead)
	r.Want(epoch, 7, wire.ReadAhead)
	r.Want(epoch, 30, wire.Demand)
	r.Want(epoch, 8, wire.Demand)
	all := func(uint32) bool { return true }
	for _, c := range []struct {
		name string
		n    int
		can  func(uint32) bool
		want []uint32
	}{
		{"all", 10, all, []uint32{8, 30, 7, 9, 2}},
		{"three", 3, all, []uint32{8, 30, 7}},
		{"those above 8", 2, func(b uint32) bool { return b > 8 }, []uint32{30, 9}},
	} {
		if got := r.Lacking(c.n, c.can); !slices.Equal(got, c.want) {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	for _, block := range []uint32{8, 7, 2, 500} {
		r.Supply(block)
	}
	if got, want := r.Lacking(10, all), []uint32{30, 9}; !slices.Equal(got, want) {
		t.Errorf("lacks %d, want %d", got, want)
	}
	if err := r.check(epoch); err != nil {
		t.Error(err)
	}
}
