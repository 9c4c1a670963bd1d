package nbdconf

import (
	"net/netip"
	"testing"
)

// TestAllowed has what nbd-server 3.24 does with these files, but where it takes nonsense for a network.
func TestAllowed(t *testing.T) {
	for _, c := range []struct {
		file, client string
		want         bool
	}{
		{"", "127.0.0.1", false},
		{"# nobody\n", "127.0.0.1", false},
		{"127.0.0.1\n", "127.0.0.1", true},
		{"127.0.0.1", "127.0.0.1", true},
		{"  127.0.0.1 \t # me\r\n", "127.0.0.1", true},
		{"127.0.0.2\n", "127.0.0.1", false},
		{"127.0.0.0/8\n", "127.0.0.1", true},
		{"127.5.0.0/8\n", "127.0.0.1", true},
		{"10.0.0.0/8\n\n127.0.0.0/8\n", "127.0.0.1", true},
		{"0.0.0.0/0\n", "127.0.0.1", true},
		{"::/0\n", "127.0.0.1", false},
		{"::/0\n", "::1", true},
		{"0.0.0.0/0\n", "::1", false},
		{"127.0.0.1\n", "::ffff:127.0.0.1", true},
		{"::ffff:127.0.0.1\n", "127.0.0.1", true},
		{"::ffff:127.0.0.0/104\n", "127.0.0.1", true},
		{"fe80::/10\n", "fe80::1%eth0", true},
		{"0.0.0.0/0\n::/0\n", "", false},
	} {
		list, errs := parseAllowList("allow", []byte(c.file))
		if len(errs) > 0 {
			t.Errorf("%q: %v", c.file, errs)
			continue
		}
		var client netip.Addr
		if c.client != "" {
			client = netip.MustParseAddr(c.client)
		}
		if got := Allowed(list, client); got != c.want {
			t.Errorf("%q lets %q in: %v", c.file, c.client, got)
		}
	}
	if !Allowed(nil, netip.Addr{}) {
		t.Error("without a list not everybody is let in")
	}
	if list, err := ReadAllowList("/nonexistent/allow"); list != nil || err != nil {
		t.Errorf("a missing file is read as %v, %v", list, err)
	}
}

func TestAllowListsWithNonsenseAreRefused(t *testing.T) {
	for _, line := range []string{"127.0.0.1/33", "127.0.0.1/x", "localhost", "127", "*", "10.0.0.1 10.0.0.2", "fe80::1%eth0", "::1/", "/8"} {
		if list, errs := parseAllowList("allow", []byte("\n"+line)); len(errs) != 1 || errs[0].Pos != (Pos{"allow", 2}) {
			t.Errorf("%q: got %v, %v", line, list, errs)
		}
	}
}
