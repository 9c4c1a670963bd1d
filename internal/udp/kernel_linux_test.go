package udp

import "testing"

func TestKernelsThatCorruptEqualTrainsAreKnown(t *testing.T) {
	for release, want := range map[string]bool{
		"6.18.44":           false,
		"6.18.44-fc-v657":   false,
		"7.0.0":             true,
		"7.0.0-14-generic":  true,
		"7.0":               true,
		"7.1.4":             true,
		"7.1.5":             false,
		"7.2.0-rc1":         false,
		"":                  false,
		"nonsense":          false,
		"5.10.0-33-amd64":   false,
		"7.1.0-1-cloud-arm": true,
	} {
		if got := equalTrainsCorruptedBy(release); got != want {
			t.Errorf("%q: %v, want %v", release, got, want)
		}
	}
}

func TestDropsAreCountedBeyond32Bits(t *testing.T) {
	var d drops
	for _, c := range []struct {
		now  uint32
		want uint64
	}{
		{0, 0},
		{5, 5},
		{3, 5}, // a packet that was queued before the reading of 5
		{1<<31 + 4, 1<<31 + 4},
		{1<<32 - 1, 1<<32 - 1},
		{1<<32 - 3, 1<<32 - 1},
		{2, 1<<32 + 2},
		{1<<32 - 2, 1<<32 + 2},
		{3, 1<<32 + 3},
	} {
		d.count(c.now)
		if d.total != c.want {
			t.Errorf("after a reading of %d: %d, want %d", c.now, d.total, c.want)
		}
	}
}
