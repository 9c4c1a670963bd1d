package client

import (
	"fmt"
	"testing"
	"time"
)

// line answers requests one after the other, at a rate and after a delay.
type line struct {
	rate  float64 // bytes a second
	delay time.Duration
	busy  time.Time
}

// TestAServerIsAskedForWhatItCanSendSoon asks for as much as a pace allows, in virtual time.
func TestAServerIsAskedForWhatItCanSendSoon(t *testing.T) {
	const request = 64 << 10
	for _, c := range []struct {
		mbit  float64
		delay time.Duration
		least float64 // of the rate that is to be used
	}{
		{20, time.Millisecond, 0.99},
		{100, time.Millisecond, 0.99},
		{100, 100 * time.Millisecond, 0.99}, // far away
		{1000, 200 * time.Microsecond, 0.99},
		{10000, 100 * time.Microsecond, 0.99},
		{1000, 20 * time.Millisecond, 0.99},
		{1000, 100 * time.Millisecond, 0.3}, // 12.5 MB are under way, and 4 MiB is the bound
	} {
		t.Run(fmt.Sprintf("%v Mbit per s, %v", c.mbit, c.delay), func(t *testing.T) {
			type asked struct {
				at, back time.Time
				owed     int
			}
			l := line{rate: c.mbit * 1e6 / 8, delay: c.delay}
			now := time.Unix(1000, 0)
			start := now
			var p pace
			var flying []asked
			owed, came := 0, 0
			var waited time.Duration
			last := now
			for now.Sub(start) < 20*time.Second {
				for owed < p.size() {
					owed += request
					if l.busy.Before(now) {
						l.busy = now
					}
					l.busy = l.busy.Add(time.Duration(request / l.rate * float64(time.Second)))
					flying = append(flying, asked{now, l.busy.Add(l.delay), owed})
				}
				a := flying[0]
				flying = flying[1:]
				now = a.back
				owed -= request
				if silent := now.Sub(last); silent >= p.patience() {
					t.Fatalf("nothing came for %v, which is as if it hung: after %v", silent, p.patience())
				}
				last = now
				p.answered(request, a.owed, now.Sub(a.at))
				if now.Sub(start) > 5*time.Second {
					came += request
					waited = max(waited, now.Sub(a.at)-l.delay)
				}
			}
			used := float64(came) / 15 / l.rate
			t.Logf("%.3f of the rate, up to %v waited, patience %v, window %d KiB", used, waited, p.patience(), p.window>>10)
			if used < c.least {
				t.Error("the rate is not used")
			}
			// What is asked for at least takes longer to send where the line is slow.
			if most := queueTime + time.Duration((paceMin+request)/l.rate*float64(time.Second)); waited > most {
				t.Errorf("want %v at most", most)
			}
		})
	}
}
