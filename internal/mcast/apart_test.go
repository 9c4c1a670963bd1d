package mcast

import (
	"slices"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

func TestWhatNobodyElseWantsIsLeftToTheOwner(t *testing.T) {
	r, s, now := newTestPair(t, 1000)
	all := func(uint32) bool { return true }
	lacks := func(when string, want ...uint32) {
		t.Helper()
		if got := r.Lacking(100, all); !slices.Equal(got, want) {
			t.Errorf("%s: %d are left to the owner, want %d", when, got, want)
		}
		if err := r.check(now); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	s.peer(now, addr(8)) // somebody else
	r.Want(now, 1, wire.Demand)
	converse(r, s, &now, 10*time.Millisecond)
	s.peers[addr(9)].company.alone = true
	r.Want(now, 2, wire.Demand)
	converse(r, s, &now, 10*time.Millisecond)
	if !r.Alone() {
		t.Fatal("the server has said that the client is alone, and the client does not know")
	}
	r.Want(now, 3, wire.Demand)
	converse(r, s, &now, 10*time.Millisecond)
	lacks("while the owner has no other means")

	r.Apart(true)
	r.Want(now, 500, wire.Demand)
	r.Want(now, 400, wire.Demand)
	r.Want(now, 600, wire.ReadAhead)
	r.WantBulk(now, 700)
	if converse(r, s, &now, 10*time.Millisecond); !r.Parting() {
		t.Error("the owner is not told that there is something for it")
	}
	lacks("when it has", 400, 500)
	if s.exports[1].wanted[400] != nil || s.exports[1].uses.byBlock[400] == nil {
		t.Error("the server is to know of block 400, and not to send it")
	}
	if s.exports[1].wanted[600] == nil || s.exports[1].wanted[700] == nil {
		t.Error("read-ahead and bulk are to stay in the group")
	}
	r.Supply(400)
	lacks("when one has come", 500)

	r.Apart(false)
	converse(r, s, &now, 10*time.Millisecond)
	lacks("when the owner's means have failed")
	if s.exports[1].wanted[500] == nil {
		t.Error("block 500 is to be asked of the group then")
	}
}

func TestWhatWasOverheardAndReadIsNoted(t *testing.T) {
	r, s, now := newTestPair(t, 1000)
	other := s.peer(now, addr(8))
	e := s.exports[1]
	for block := range uint32(20) {
		e.uses.wanted(now, other, block, wire.Demand, false)
		r.Used(block)
	}
	converse(r, s, &now, time.Second)
	if len(e.wanted) > 0 {
		t.Errorf("%d blocks are to be sent that are only noted", len(e.wanted))
	}
	for block := range uint32(20) {
		if !e.uses.byBlock[block].shared {
			t.Fatalf("the server does not know that block %d was of use", block)
		}
	}
	// In a large group some of the clients are enough.
	r.clients = 1000 * noteFew
	for block := range uint32(1000) {
		r.Used(block)
	}
	if n := len(r.notes); n > 20 {
		t.Errorf("of %d clients one notes %d of 1000 blocks", r.clients, n)
	}
}
