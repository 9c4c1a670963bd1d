package querier

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

var (
	lower  = netip.MustParseAddr("10.0.0.1")
	self   = netip.MustParseAddr("10.0.0.5")
	higher = netip.MustParseAddr("10.0.0.10")
)

// run lets virtual time pass until end, and returns when the machine asked.
func run(m *machine, start, end time.Time) (asked []time.Duration) {
	for !m.next.After(end) {
		now := m.next
		if m.step(now) {
			asked = append(asked, now.Sub(start))
		}
	}
	return asked
}

func TestAQuerierAsksSoonerAtTheStart(t *testing.T) {
	start := time.Unix(1000, 0)
	m := newMachine(start, self, newTiming(DefaultInterval))
	want := []time.Duration{0, DefaultInterval / 4, DefaultInterval / 4 * 5, DefaultInterval / 4 * 9}
	if got := run(&m, start, start.Add(300*time.Second)); !slices.Equal(got, want) {
		t.Errorf("it asked after %v, want %v", got, want)
	}
	if m.step(m.next.Add(-1)) {
		t.Error("it asked before it was time")
	}
}

func TestTheLowestAddressAsks(t *testing.T) {
	start := time.Unix(1000, 0)
	for name, c := range map[string]struct {
		from   netip.Addr
		silent bool
	}{
		"a lower one":              {lower, true},
		"a higher one":             {higher, false},
		"ourselves":                {self, false},
		"a switch without address": {netip.IPv4Unspecified(), false},
		"nobody":                   {netip.Addr{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(start, self, newTiming(DefaultInterval))
			m.step(start)
			m.heard(start.Add(time.Second), c.from, newTiming(DefaultInterval))
			if silent := m.other.IsValid(); silent != c.silent {
				t.Fatalf("silent: %v, want %v", silent, c.silent)
			}
			asked := run(&m, start, start.Add(400*time.Second))
			// 2 × 125 s and half of 10 s after the other's query, and then as at the start.
			if c.silent && (asked[0] != 256*time.Second || asked[1] != asked[0]+DefaultInterval/4 || m.other.IsValid()) {
				t.Errorf("it asked after %v", asked)
			}
		})
	}
}

func TestAQuerierStaysSilentWhileAnotherAsks(t *testing.T) {
	start := time.Unix(1000, 0)
	m := newMachine(start, self, newTiming(DefaultInterval))
	now := start
	for range 20 {
		m.heard(now, lower, newTiming(DefaultInterval))
		now = now.Add(DefaultInterval)
		if asked := run(&m, start, now); len(asked) > 0 {
			t.Fatalf("it asked after %v", asked)
		}
	}
}

func TestAQueryThatCouldNotBeSentIsSentSoonAndAgain(t *testing.T) {
	start := time.Unix(1000, 0)
	m := newMachine(start, self, newTiming(DefaultInterval))
	run(&m, start, start.Add(1000*time.Second))
	down := m.next
	m.step(down)
	m.unsent(down)
	want := []time.Duration{retry, retry + DefaultInterval/4}
	if got := run(&m, down, down.Add(DefaultInterval)); !slices.Equal(got, want) {
		t.Errorf("it asked after %v, want %v", got, want)
	}
}

func TestOneQueryKeepsOthersSilentForMinutesAtMost(t *testing.T) {
	start := time.Unix(1000, 0)
	m := newMachine(start, self, newTiming(DefaultInterval))
	m.heard(start, lower, timing{float8(0xff) * time.Second, float8(0xff) * tenthSecond, 7})
	if !m.next.Equal(start.Add(maxSilence)) {
		t.Errorf("silent for %v", m.next.Sub(start))
	}
}

func TestAnswersAreThereBeforeTheNextQuery(t *testing.T) {
	for interval := MinInterval; interval <= MaxInterval; interval += time.Second {
		if n := newTiming(interval); n.response >= n.interval || n.response > maxResponse {
			t.Errorf("asking every %v, answers within %v", n.interval, n.response)
		}
	}
}
