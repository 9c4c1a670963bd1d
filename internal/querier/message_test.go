package querier

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

// unhex reads bytes in hexadecimal, with spaces between.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Queries as RFC 9776 and RFC 9777 have them, and those of the versions before.
var (
	igmpQueries = map[string]struct {
		bytes string
		said  timing
	}{
		"version 3": {"1164 ec1e 00000000 02 7d 0000", timing{125 * time.Second, 10 * time.Second, 2}},
		"version 3, about a group and two sources, defaults": {
			"110a e9eb ef010203 00 00 0002 0a000001 0a000002",
			timing{125 * time.Second, time.Second, 2},
		},
		"version 3, long times": {"118f e67a 00000000 07 f6 0000", timing{22 << 10 * time.Second, 31 << 3 * tenthSecond, 7}},
		"version 2":             {"1164 ee9b 00000000", timing{125 * time.Second, 10 * time.Second, 2}},
		"version 1":             {"1100 eeff 00000000", timing{125 * time.Second, 10 * time.Second, 2}},
	}
	mldQueries = map[string]struct {
		bytes string
		said  timing
	}{
		"version 2": {"8200 0000 2710 0000 " + strings.Repeat("00", 16) + " 02 7d 0000", timing{125 * time.Second, 10 * time.Second, 2}},
		"version 2, about a group and a source": {
			"8200 0000 8001 0000 ff15" + strings.Repeat("00", 14) + " 0a 8f 0001 fe80" + strings.Repeat("00", 14),
			timing{31 << 3 * time.Second, 0x1001 << 3 * time.Millisecond, 2},
		},
		"version 1": {"8200 0000 03e8 0000 " + strings.Repeat("00", 16), timing{125 * time.Second, time.Second, 2}},
	}
)

func TestQueriesAreReadAsTheyAreMeant(t *testing.T) {
	for name, c := range igmpQueries {
		if said, ok := parseIGMP(unhex(t, c.bytes)); !ok || said != c.said {
			t.Errorf("IGMP %s: %+v, %v, want %+v", name, said, ok, c.said)
		}
	}
	for name, c := range mldQueries {
		if said, ok := parseMLD(unhex(t, c.bytes)); !ok || said != c.said {
			t.Errorf("MLD %s: %+v, %v, want %+v", name, said, ok, c.said)
		}
	}
}

func TestOurQueriesAreThoseOfTheStandards(t *testing.T) {
	n := newTiming(DefaultInterval)
	if got, want := n.appendIGMP(nil), unhex(t, igmpQueries["version 3"].bytes); !bytes.Equal(got, want) {
		t.Errorf("IGMP: %x, want %x", got, want)
	}
	if got, want := n.appendMLD(nil), unhex(t, mldQueries["version 2"].bytes); !bytes.Equal(got, want) {
		t.Errorf("MLD: %x, want %x", got, want)
	}
}

func TestWhatIsNoQueryIsRefused(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":           "",
		"a report":          "2200 ddff 00000000",
		"cut":               "1164 ec1e 000000",
		"between versions":  "1164 ee9a 00000000 0001",
		"a wrong checksum":  "1164 ec1f 00000000 02 7d 0000",
		"too many sources":  "110a fdef ef010203 00 00 0001",
		"an odd byte wrong": "1164 ec1e 00000000 02 7d 0000 01",
	} {
		if said, ok := parseIGMP(unhex(t, s)); ok {
			t.Errorf("IGMP, %s: %+v", name, said)
		}
	}
	zeros := strings.Repeat("00", 16)
	for name, s := range map[string]string{
		"nothing":          "",
		"a report":         "8f00 0000 2710 0000 " + zeros + " 02 7d 0000",
		"a code":           "8201 0000 2710 0000 " + zeros + " 02 7d 0000",
		"cut":              "8200 0000 2710 0000 " + zeros[2:],
		"between versions": "8200 0000 2710 0000 " + zeros + " 02 7d",
		"too many sources": "8200 0000 2710 0000 " + zeros + " 02 7d 0001",
	} {
		if said, ok := parseMLD(unhex(t, s)); ok {
			t.Errorf("MLD, %s: %+v", name, said)
		}
	}
}

// checkSaid checks of what any bytes say that it keeps us silent for a time, and no longer than it may.
func checkSaid(t *testing.T, said timing) {
	start := time.Unix(1000, 0)
	m := newMachine(start, self, newTiming(DefaultInterval))
	m.heard(start, lower, said)
	if silence := m.next.Sub(start); silence < time.Second || silence > maxSilence {
		t.Errorf("%+v: silent for %v", said, silence)
	}
}

func FuzzIGMP(f *testing.F) {
	for _, c := range igmpQueries {
		f.Add(unhex(f, c.bytes)[4:], uint8(100))
	}
	// The checksum is made right, so that what is behind it is reached.
	f.Fuzz(func(t *testing.T, rest []byte, code byte) {
		b := append([]byte{igmpQuery, code, 0, 0}, rest...)
		sum := checksum(b)
		b[2], b[3] = byte(sum>>8), byte(sum)
		if said, ok := parseIGMP(b); ok {
			checkSaid(t, said)
		}
		parseIGMP(rest)
	})
}

func FuzzMLD(f *testing.F) {
	for _, c := range mldQueries {
		f.Add(unhex(f, c.bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if said, ok := parseMLD(b); ok {
			checkSaid(t, said)
		}
	})
}
