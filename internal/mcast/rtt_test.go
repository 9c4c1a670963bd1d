package mcast

import (
	"testing"
	"time"
)

func TestTheTimeoutFollowsTheRoundTrip(t *testing.T) {
	var r rtt
	if r.timeout() != firstRTO {
		t.Errorf("before anything is known: %v", r.timeout())
	}
	for range 50 {
		r.sample(200 * time.Microsecond)
	}
	if r.timeout() != minRTO || r.smooth != 200*time.Microsecond {
		t.Errorf("on a fast network: %v for a round trip of %v", r.timeout(), r.smooth)
	}
	for range 100 {
		r.sample(150 * time.Millisecond)
	}
	if r.timeout() < 150*time.Millisecond || r.timeout() > 170*time.Millisecond {
		t.Errorf("round trips of 150 ms: %v", r.timeout())
	}
	for i := range 100 {
		r.sample(time.Duration(100+100*(i%2)) * time.Millisecond)
	}
	if r.timeout() < 250*time.Millisecond {
		t.Errorf("round trips of 100 and 200 ms in turn: %v", r.timeout())
	}
}

func TestTheTimeoutDoublesWhileNoAnswerComes(t *testing.T) {
	var r rtt
	r.sample(time.Millisecond)
	for _, want := range []time.Duration{20, 40, 80, 160, 320, 640, 1000, 1000, 1000} {
		if got := r.timeout(); got != want*time.Millisecond {
			t.Errorf("backoff %d: %v, want %v", r.backoff, got, want*time.Millisecond)
		}
		if r.estimate() != minRTO {
			t.Errorf("backoff %d: the estimate is %v", r.backoff, r.estimate())
		}
		r.backoff++
	}
	r.sample(time.Millisecond)
	if r.timeout() != minRTO {
		t.Errorf("after an answer: %v", r.timeout())
	}
}
