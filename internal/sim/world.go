// Package sim runs the protocol machines of package mcast by the thousand in virtual time, on a network that loses, delays,
// duplicates and reorders as it is told. One seed gives one run: a failure replays exactly.
//
// There is no real clock here, and there are no goroutines but those in which the members of a Crowd have their turns. World
// holds the events; Server and Client are what a real process would be around a machine.
package sim

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/dnbd/dnbd/internal/seal"
)

// World is a network, its nodes and its time.
type World struct {
	Rand *rand.Rand
	Keys *seal.Ring // of the group, set before there are nodes; nil for none
	// OnSend, if set, is called with each datagram that a node sends, and its size on the wire.
	OnSend func(data []byte, size int)

	now    time.Time
	events eventHeap
	serial uint64
	nodes  map[netip.AddrPort]*Node
	groups map[netip.AddrPort][]*Node
	crowds []*Crowd
	hosts  int
}

// NewWorld returns an empty world whose every random choice follows from the seed.
func NewWorld(seed uint64) *World {
	return &World{
		Rand:   rand.New(rand.NewPCG(seed, 0x646e6264)),
		now:    time.Unix(1_000_000_000, 0),
		nodes:  map[netip.AddrPort]*Node{},
		groups: map[netip.AddrPort][]*Node{},
	}
}

// Now is the virtual time.
func (w *World) Now() time.Time { return w.now }

// At lets f happen at a time, after all that was set for the same time before.
func (w *World) At(t time.Time, f func()) {
	if t.Before(w.now) {
		t = w.now
	}
	w.serial++
	w.events.push(event{t, w.serial, f})
}

// After lets f happen some time from now.
func (w *World) After(d time.Duration, f func()) { w.At(w.now.Add(d), f) }

// Run lets events happen until done says so, none are left, or the limit of virtual time has passed. It returns whether done
// did.
func (w *World) Run(limit time.Duration, done func() bool) bool {
	end := w.now.Add(limit)
	still := 0 // events since time went on
	for !done() {
		if len(w.events) == 0 || w.events[0].at.After(end) {
			w.now = end
			return false
		}
		e := w.events.pop()
		if still++; e.at.After(w.now) {
			still = 0
		}
		if still > 1_000_000 {
			panic("sim: time stands still: a machine's Next names a time at which it has nothing to do")
		}
		w.now = e.at
		e.do()
	}
	return true
}

type event struct {
	at     time.Time
	serial uint64
	do     func()
}

func (e *event) before(f *event) bool {
	if e.at.Equal(f.at) {
		return e.serial < f.serial
	}
	return e.at.Before(f.at)
}

// eventHeap has the first event at its front, and the children of i at 2i+1 and 2i+2.
type eventHeap []event

func (h *eventHeap) push(e event) {
	*h = append(*h, e)
	s := *h
	for i := len(s) - 1; i > 0; {
		parent := (i - 1) / 2
		if !s[i].before(&s[parent]) {
			return
		}
		s[i], s[parent] = s[parent], s[i]
		i = parent
	}
}

func (h *eventHeap) pop() event {
	s := *h
	first, last := s[0], len(s)-1
	s[0], s[last] = s[last], event{}
	s = s[:last]
	*h = s
	for i := 0; ; {
		child := 2*i + 1
		if child+1 < len(s) && s[child+1].before(&s[child]) {
			child++
		}
		if child >= len(s) || !s[child].before(&s[i]) {
			return first
		}
		s[i], s[child] = s[child], s[i]
		i = child
	}
}
