package sim

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// TestAnyScheduleOfFaultsEndsWell tries random networks with random faults. Afterwards all is healed, and every reader and every
// copy must end, nothing may go on for ever, and what was sent must be in proportion to what was wanted.
func TestAnyScheduleOfFaultsEndsWell(t *testing.T) {
	first, n := *runsFrom, uint64(*runs)
	if *oneSeed > 0 {
		first, n = *oneSeed, 1
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			runSchedule(t, seed)
		})
	}
}

func runSchedule(t *testing.T, seed uint64) {
	rng := NewWorld(seed ^ 0x5eed).Rand
	blockSizes := []int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20}
	blockSize := blockSizes[rng.IntN(len(blockSizes))]
	size := int64(blockSize)*int64(1+rng.IntN(8<<20/blockSize)) - int64(rng.IntN(blockSize))
	r := newRoom(t, seed, size, blockSize)
	var story []string
	tell := func(format string, args ...any) {
		story = append(story, fmt.Sprintf("%v: ", r.elapsed())+fmt.Sprintf(format, args...))
	}
	defer func() {
		if t.Failed() {
			for _, line := range story {
				t.Log(line)
			}
		}
	}()

	for range 1 + rng.IntN(3) {
		r.serveOver(Link{Rate: []float64{20e6, 100e6, 1e9}[rng.IntN(3)], Delay: lan})
	}
	loss := []float64{0, 0, 0.01, 0.05, 0.2}[rng.IntN(5)]
	jitter := []time.Duration{0, 0, 100 * time.Microsecond, 3 * time.Millisecond}[rng.IntN(4)]
	tell("%d servers, %d blocks of %d, loss %v, jitter %v", len(r.servers), r.image.Total(), blockSize, loss, jitter)
	link := func() Link {
		return Link{
			Delay: time.Duration(1 + rng.Int64N([]int64{1e5, 1e6, 5e7}[rng.IntN(3)])), Loss: loss, Jitter: jitter,
			Duplicate: []float64{0, 0.05}[rng.IntN(2)],
		}
	}
	var readers []*reader
	wanted := 1 // images
	join := func() {
		c := r.join(link())
		switch rng.IntN(3) {
		case 0:
			c.Copy()
			tell("client %d copies", len(r.clients))
		case 1:
			readers = append(readers, r.read(c, uint32(rng.IntN(32)), time.Duration(rng.Int64N(1e6))))
			tell("client %d reads", len(r.clients))
		case 2:
			c.Copy()
			readers = append(readers, r.read(c, uint32(rng.IntN(8)), time.Duration(rng.Int64N(1e6))))
			tell("client %d copies and reads", len(r.clients))
		}
	}
	for range 1 + rng.IntN(5) {
		join()
	}
	restarts := 0
	for range rng.IntN(12) {
		r.wait(time.Duration(rng.Int64N([]int64{1e7, 1e8, 1e9, 2e10}[rng.IntN(4)])))
		i, j := rng.IntN(len(r.servers)), rng.IntN(len(r.clients))
		s, c := r.servers[i], r.clients[j]
		switch rng.IntN(13) {
		case 0:
			tell("server %d is killed", i+1)
			s.Kill()
			restarts++
		case 1:
			tell("server %d is started anew", i+1)
			s.Start(uint16(i+1), 0)
			restarts++
		case 2:
			tell("server %d is stopped", i+1)
			s.Stop()
		case 3:
			if s.stopped && !s.Link.Down {
				tell("server %d goes on", i+1)
				s.Continue()
			}
		case 4:
			tell("server %d is mute", i+1)
			s.Link.Mute = true
			wanted += 5 // it answers, and is asked again ever more rarely
		case 5:
			tell("client %d hears no group", j+1)
			c.Link.Deaf = true
			wanted += 5 // it asks again, ever more rarely
		case 6:
			tell("client %d is off the network", j+1)
			c.Link.Down = true
		case 7:
			tell("server %d withdraws the image", i+1)
			s.Withdraw(true)
		case 8:
			tell("server %d cannot read", i+1)
			s.LoadErr = func(uint32) error { return errors.New("bad sector") }
		case 9:
			tell("client %d loses every third block", j+1)
			for b := range r.image.Total() {
				if b%3 == 0 {
					c.Evict(b)
				}
			}
			c.Copy()
			wanted++
		case 10:
			if len(r.clients) < 12 {
				join()
				wanted++
			}
		case 11:
			tell("server %d's disk is slow", i+1)
			s.LoadTime = 50 * time.Millisecond
		case 12:
			tell("all is well")
			r.heal()
		}
	}
	tell("all is well, for good")
	r.heal()
	if len(r.servers) > 1 && rng.IntN(2) == 0 {
		i := rng.IntN(len(r.servers))
		tell("but server %d is killed", i+1)
		r.servers[i].Kill()
	}
	for _, d := range readers {
		r.until(60*time.Second, "every reader has read all", d.done)
	}
	for _, c := range r.clients {
		c.Copy()
	}
	r.finish(60 * time.Second)

	var symbols, wants, wrong uint64
	for _, s := range r.servers {
		symbols += s.Sender.Stats().Symbols // since it was last started
	}
	for _, c := range r.clients {
		wants += c.Receiver.Stats().Wants
		wrong += uint64(c.Wrong)
	}
	if wrong > 0 {
		t.Errorf("%d wrong blocks where nobody forges", wrong)
	}
	// Everyone may miss everything at a restart or while it is deaf; at 20 % a burst of repairs is not rare.
	most := uint64(float64(r.image.symbols()) * (3 + 2*float64(wanted+restarts)) * (1 + 3*loss))
	t.Logf("%v, %d symbols sent of an image of %d (%d at most), %d WANTs", r.elapsed(), symbols, r.image.symbols(), most, wants)
	if symbols > most+100 {
		t.Errorf("sent %d symbols, %d at most", symbols, most)
	}
}

// heal ends all faults but loss and delay.
func (r *room) heal() {
	for i, s := range r.servers {
		s.Link.Mute = false
		s.LoadErr = nil
		s.LoadTime = 100 * time.Microsecond
		switch {
		case s.Link.Down:
			s.Start(uint16(i+1), 0)
		case s.stopped:
			s.Continue()
		}
		s.Withdraw(false)
	}
	for _, c := range r.clients {
		c.Link.Deaf, c.Link.Down = false, false
	}
}

// symbols is how many data symbols the image has.
func (i *Image) symbols() int {
	n := 0
	for b := range i.Total() {
		n += (i.Len(b) + 1441) / 1442
	}
	return n
}
