package mcast

import (
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

func TestAClientIsAloneWhoseBlocksNobodyElseWants(t *testing.T) {
	second := 20 * time.Millisecond // fifty blocks a second
	for _, c := range []struct {
		name string
		// what the other does when p has waited for block i
		other func(u *uses, now time.Time, o *peer, i uint32)
		alone bool
	}{
		{"nothing", func(*uses, time.Time, *peer, uint32) {}, true},
		{"waits for others", func(u *uses, now time.Time, o *peer, i uint32) { u.wanted(now, o, i+10000, wire.Demand, false) }, true},
		{"waits for them too", func(u *uses, now time.Time, o *peer, i uint32) { u.wanted(now, o, i, wire.Demand, false) }, false},
		{"has read what it overheard", func(u *uses, now time.Time, o *peer, i uint32) { u.wanted(now, o, i, wire.Note, true) }, false},
		{"has read it over NBD", func(u *uses, now time.Time, o *peer, i uint32) { u.wanted(now, o, i, wire.Note, false) }, false},
		{"reads ahead", func(u *uses, now time.Time, o *peer, i uint32) { u.wanted(now, o, i, wire.ReadAhead, false) }, false},
		{"copies everything", func(u *uses, now time.Time, o *peer, i uint32) { u.wanted(now, o, i, wire.Bulk, false) }, false},
		{"comes a minute later", func(u *uses, now time.Time, o *peer, i uint32) {
			if i >= 3000 {
				u.wanted(now, o, i-3000, wire.Demand, false)
			}
		}, false},
		{"wants a few", func(u *uses, now time.Time, o *peer, i uint32) {
			if i%32 == 0 {
				u.wanted(now, o, i, wire.Demand, false)
			}
		}, true},
	} {
		var u uses
		p, o := &peer{}, &peer{}
		now := epoch
		for i := range uint32(4000) {
			now = now.Add(second)
			u.wanted(now, p, i, wire.Demand, false)
			c.other(&u, now, o, i)
		}
		if p.company.alone != c.alone {
			t.Errorf("the other %s: alone is %v, %+v", c.name, p.company.alone, p.company)
		}
		if len(u.byBlock) > maxUses || len(u.order) > maxUses {
			t.Errorf("remembers %d blocks", len(u.order))
		}
	}
}
