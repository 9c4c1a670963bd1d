package client

import "time"

const (
	// queueTime is how long what is asked of a server over NBD may wait on the way. When the server dies all of it is asked of another, behind
	// as much again.
	queueTime = 25 * time.Millisecond
	// What is asked for and not there yet is paceMax bytes at most, enough for 10 Gbit/s at 3 ms; paceMin at least, and paceFirst at first.
	paceMin   = 128 << 10
	paceFirst = 512 << 10
	paceMax   = 4 << 20
	// A server that owes something hangs when nothing has come for hangMin longer than answers take, or more if that varies; or for
	// hangFirst if it is the first answer. To ask another server costs little if that is a mistake.
	hangMin   = 50 * time.Millisecond
	hangFirst = 500 * time.Millisecond
)

// pace is how much may be asked of a server and not there yet: what it sends in the time that an answer takes when nothing waits, and in
// queueTime. It is the window of TCP Vegas (Brakmo and Peterson 1995), for requests.
type pace struct {
	window            int           // bytes; 0 before the first answer
	least             time.Duration // that an answer took
	smooth, variation time.Duration // of answers, as in RFC 6298
}

// size is the window in bytes.
func (p *pace) size() int {
	if p.window == 0 {
		return paceFirst
	}
	return p.window
}

// answered takes in that an answer of some bytes took so long, when owed bytes were to come until its end.
func (p *pace) answered(bytes, owed int, took time.Duration) {
	took = max(took, time.Microsecond)
	if p.smooth == 0 {
		p.smooth, p.variation = took, took/2
	} else {
		p.variation += ((took - p.smooth).Abs() - p.variation) / 4
		p.smooth += (took - p.smooth) / 8
	}
	// An answer for which nothing else waits shows what the way takes now, which may be another one than before.
	if p.least == 0 || took < p.least || owed == bytes {
		p.least = took
	}
	want := float64(owed) * float64(p.least+queueTime) / float64(took)
	was := float64(p.size())
	p.window = int(min(max(was+(want-was)/4, paceMin), paceMax))
}

// patience is how long a server that owes something may be silent.
func (p *pace) patience() time.Duration {
	if p.smooth == 0 {
		return hangFirst
	}
	return p.smooth + max(hangMin, 4*p.variation)
}
