package mcast

import (
	"net/netip"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// questions returns the cookies that packets to a server carry.
func questions(t *testing.T, packets []Packet, to netip.AddrPort) []uint64 {
	t.Helper()
	var cookies []uint64
	for _, p := range packets {
		h, err := wire.ParseHello(p.Data)
		if err != nil || p.To != to {
			t.Fatalf("to %v: %v", p.To, err)
		}
		cookies = append(cookies, h.Cookie)
	}
	return cookies
}

func TestAServerIsAskedAgainUntilItAnswers(t *testing.T) {
	for _, c := range []struct {
		name     string
		answerAt time.Duration // 0 for never
		asked    int
	}{
		{"it answers at once", time.Millisecond, 1},
		{"the first question is lost", 12 * time.Millisecond, 2},
		{"the first three are lost", 75 * time.Millisecond, 4},
		{"it is not there", 0, 8},
	} {
		var g greeter
		now, far := epoch, epoch.Add(time.Hour)
		asked := len(g.ask(nil, now, addr(1), 5))
		for now.Before(far) {
			next := g.next(far)
			if at := epoch.Add(c.answerAt); c.answerAt > 0 && !at.After(next) {
				g.answered(addr(1))
				c.answerAt = 0
				continue
			}
			now = next
			asked += len(questions(t, g.again(nil, now), addr(1)))
		}
		if asked != c.asked {
			t.Errorf("%s: asked %d times, want %d", c.name, asked, c.asked)
		}
	}
}

func TestAQuestionUnderWayIsNotAskedAnew(t *testing.T) {
	const ms = time.Millisecond
	var g greeter
	for _, c := range []struct {
		name     string
		at       time.Duration
		answered bool
		cookie   uint64
		asked    bool
	}{
		{"the first", 0, false, 0, true},
		{"announced once more", 2 * ms, false, 0, false},
		{"with its cookie", 3 * ms, false, 5, true},
		{"with its cookie once more", 4 * ms, false, 5, false},
		{"with another cookie, as it was started anew", 5 * ms, false, 6, true},
		{"announced again after the answer", 6 * ms, true, 0, false},
		{"with its cookie again after the answer", 7 * ms, true, 6, true},
		{"announced a second later", 1007 * ms, true, 0, true},
	} {
		if c.answered {
			g.answered(addr(1))
		}
		got := questions(t, g.ask(nil, epoch.Add(c.at), addr(1), c.cookie), addr(1))
		if asked := len(got) == 1 && got[0] == c.cookie; asked != c.asked || len(got) > 1 {
			t.Errorf("%s: asked with %v", c.name, got)
		}
	}
}

func TestTheServersAskedAreBounded(t *testing.T) {
	var g greeter
	for n := range uint32(1000) {
		g.ask(nil, epoch, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 10810), 0)
	}
	if len(g.greetings) != maxReplicas {
		t.Errorf("%d servers, %d at most", len(g.greetings), maxReplicas)
	}
}
