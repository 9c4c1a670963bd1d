package sim

import (
	"testing"
	"time"
)

// switchPort is a client's link whose switch port keeps 100 ms waiting at most.
func switchPort(rate float64) Link {
	return Link{In: rate, Queue: int(rate / 8 / 10), Delay: lan}
}

func TestTheServerFollowsAPathThatHalves(t *testing.T) {
	seeds(t, 2, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 32<<20, 64<<10)
		s := r.serveOver(Link{Rate: 1e9, Delay: lan})
		for range 4 {
			r.join(switchPort(100e6)).Copy()
		}
		r.wait(1200 * time.Millisecond)
		halfway := r.sent()
		for _, c := range r.clients {
			c.Link.In /= 2
			c.Link.Queue /= 2
		}
		r.finish(30 * time.Second)
		took := r.clients[0].Done.Sub(r.start)
		ideal := 1200*time.Millisecond + time.Duration((overhead-halfway)*float64(r.image.desc.Size)*8/50e6*float64(time.Second))
		t.Logf("%v where %v was to be had; %.3f images sent, %d symbols lost at a client's port; rate %.1f Mbit/s",
			took, ideal, r.sent(), r.clients[0].Dropped, float64(s.Sender.Stats().Rate)/1e6)
		if r.sent() > 1.8 {
			t.Errorf("sent %.3f images", r.sent())
		}
		if took > ideal*3/2 {
			t.Errorf("it took %v", took)
		}
	})
}

func TestASlowHalfDoesNotStarveTheFastHalf(t *testing.T) {
	seeds(t, 2, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 8<<20, 64<<10)
		r.serveOver(Link{Rate: 1e9, Delay: lan})
		for i := range 9 {
			rate := 100e6
			if i%2 == 1 {
				rate = 10e6 // four of nine: the median is a fast one
			}
			r.join(switchPort(rate)).Copy()
		}
		r.finish(60 * time.Second)
		var fast, slow time.Duration
		for i, c := range r.clients {
			if i%2 == 0 {
				fast = max(fast, c.Done.Sub(r.start))
			} else {
				slow = max(slow, c.Done.Sub(r.start))
			}
		}
		alone := time.Duration(float64(r.image.desc.Size) * 8 * overhead / 100e6 * float64(time.Second))
		t.Logf("fast clients %v (%v alone), slow ones %v; %.3f images sent", fast, alone, slow, r.sent())
		if fast > 10*alone {
			t.Errorf("the fast half took %v", fast)
		}
	})
}
