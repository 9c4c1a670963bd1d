package mcast

import (
	"slices"
	"time"
)

const (
	// repeatPause is how long after a block was sent whole it is sent whole again to a crowd. Machines that are switched on one after the
	// other all need the first blocks at once, and one sending does for those who come within that time. It is more than it takes to find the
	// servers, so that who has just come is not too late for the next one as well, and little against what else a machine does to start.
	repeatPause = 40 * time.Millisecond
	// repeatFew is how many clients are no crowd: what they want they are sent at once.
	repeatFew = 32
)

// hold makes a job that has just been queued wait until a time, if it is for a crowd.
func (s *Sender) hold(j *job, until, now time.Time) {
	if !j.whole || !now.Before(until) || s.sched.live <= repeatFew || s.draining {
		return
	}
	j.state, j.until = jobHeld, until
	s.holds = true
	at := len(s.held)
	for at > 0 && until.Before(s.held[at-1].until) {
		at--
	}
	s.held = slices.Insert(s.held, at, j)
}

// unhold queues the jobs whose time has come for all who want them by now. Those that were given up meanwhile are dropped.
func (s *Sender) unhold(now time.Time) {
	for len(s.held) > 0 && !now.Before(s.held[0].until) {
		j := s.held[0]
		s.held[0] = nil
		s.held = s.held[1:]
		if j.state != jobHeld {
			continue
		}
		j.state = jobQueued
		for i := j.wanters.next(0); i >= 0; i = j.wanters.next(i + 1) {
			s.sched.enqueue(j, s.sched.peers[i])
		}
	}
}
