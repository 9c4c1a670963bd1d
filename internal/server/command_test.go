package server

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/internal/wire"
)

var operator = netip.MustParseAddrPort("10.0.0.9:1234")

func TestACommandIsCarriedOutOnceAndOnlyWithItsChallenge(t *testing.T) {
	var c commands
	w := wire.Command{ID: 1, Verb: wire.VerbDrain}
	take := func(from netip.AddrPort, challenge uint64, want bool) *command {
		t.Helper()
		w.Challenge = challenge
		x, begin := c.take(from, w)
		if begin != want {
			t.Errorf("from %v with challenge %x: carried out: %v, want %v", from, challenge, begin, want)
		}
		return x
	}
	x := take(operator, 0, false)
	if x.challenge == 0 {
		t.Error("the challenge is none")
	}
	other := netip.AddrPortFrom(operator.Addr(), 99)
	take(operator, x.challenge+1, false)
	take(other, x.challenge, false)
	if take(operator, x.challenge, true) != x {
		t.Error("it is another one")
	}
	take(operator, x.challenge, false)
	c.finish(x, nil, nil)
	take(operator, x.challenge, false)
	for i := range uint64(maxCommands) { // until it is forgotten
		c.take(operator, wire.Command{ID: 2 + i})
	}
	if len(c.list) != maxCommands {
		t.Errorf("%d commands are remembered", len(c.list))
	}
	take(operator, x.challenge, false)
}

func TestALongAnswerComesInParts(t *testing.T) {
	var c commands
	x, _ := c.take(operator, wire.Command{ID: 1})
	if a := c.answer(x, 0); a.Outcome != wire.OutcomeChallenge || a.Parts != 0 {
		t.Errorf("at first the answer is %+v", a)
	}
	for _, size := range []int{0, 1, wire.MaxAnswerText, wire.MaxAnswerText + 1, 100_000} {
		text := strings.Repeat("x", size)
		c.finish(x, []byte(text), nil)
		var got []byte
		for part, parts := uint16(0), uint16(1); part < parts; part++ {
			a := c.answer(x, part)
			if a.Outcome != wire.OutcomeDone || a.Part != part {
				t.Fatalf("part %d of %d bytes: %+v", part, size, a)
			}
			got, parts = append(got, a.Text...), a.Parts
		}
		if string(got) != text {
			t.Errorf("of %d bytes %d came", size, len(got))
		}
	}
	c.finish(x, nil, errors.New("no"))
	if a := c.answer(x, 7); a.Outcome != wire.OutcomeFailed || string(a.Text) != "no" || a.Part != 0 {
		t.Errorf("a failure is %+v", a)
	}
}
