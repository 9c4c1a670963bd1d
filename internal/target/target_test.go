package target

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/image"
)

const someID = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func TestParseReadsEveryForm(t *testing.T) {
	id, err := image.ParseID(someID)
	if err != nil {
		t.Fatal(err)
	}
	standard, v6 := netip.MustParseAddrPort("239.0.0.1:10810"), netip.MustParseAddrPort("[ff15::1]:10810")
	for _, c := range []struct {
		in    string
		want  Target
		canon string // "" for in itself
	}{
		{"debian-12", Target{Group: standard, Name: "debian-12"}, "dnbd://239.0.0.1/debian-12"},
		{"debian@3", Target{Group: standard, Name: "debian", Revision: 3}, "dnbd://239.0.0.1/debian@3"},
		{someID, Target{Group: standard, ID: id}, "dnbd://239.0.0.1/" + someID},
		{strings.ToUpper(someID), Target{Group: standard, ID: id}, "dnbd://239.0.0.1/" + someID},
		{"dnbd://239.0.0.1/", Target{Group: standard}, ""},
		{"dnbd://239.0.0.1", Target{Group: standard}, "dnbd://239.0.0.1/"},
		{"DNBD://239.0.0.1/a", Target{Group: standard, Name: "a"}, "dnbd://239.0.0.1/a"},
		{"dnbd://239.0.0.1:10810/a", Target{Group: standard, Name: "a"}, "dnbd://239.0.0.1/a"},
		{"dnbd://239.1.2.3:99/a@1", Target{Group: netip.MustParseAddrPort("239.1.2.3:99"), Name: "a", Revision: 1}, ""},
		{"dnbd://239.1.2.3:99/" + someID, Target{Group: netip.MustParseAddrPort("239.1.2.3:99"), ID: id}, ""},
		{"dnbd://[ff15::1]/a", Target{Group: v6, Name: "a"}, ""},
		{"dnbd://[ff15::1]:7/a", Target{Group: netip.MustParseAddrPort("[ff15::1]:7"), Name: "a"}, ""},
		{"dnbd://ff15::1/a", Target{Group: v6, Name: "a"}, "dnbd://[ff15::1]/a"},
		{"dnbd://[ff12::1%25eth0]/a", Target{Group: netip.MustParseAddrPort("[ff12::1%eth0]:10810"), Name: "a"}, ""},
		{"dnbd://[ff12::1%eth0]:7/a", Target{Group: netip.MustParseAddrPort("[ff12::1%eth0]:7"), Name: "a"}, "dnbd://[ff12::1%25eth0]:7/a"},
		{"dnbd://[::ffff:239.0.0.1]/a", Target{Group: standard, Name: "a"}, "dnbd://239.0.0.1/a"},
		{"a@281474976710655", Target{Group: standard, Name: "a", Revision: 1<<48 - 1}, "dnbd://239.0.0.1/a@281474976710655"},
	} {
		got, err := Parse(c.in)
		if err != nil || got != c.want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", c.in, got, err, c.want)
		}
		if c.canon == "" {
			c.canon = c.in
		}
		if s := got.String(); s != c.canon {
			t.Errorf("Parse(%q).String() = %q, want %q", c.in, s, c.canon)
		}
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "it is empty",
		"nbd://host/x":                       `unknown scheme "nbd"`,
		"dnbd://":                            "no group",
		"dnbd:///x":                          "no group",
		"dnbd://host/x":                      `"host" is not ADDRESS`,
		"dnbd://239.0.0.1:0/x":               "port 0",
		"dnbd://239.0.0.1:99999/x":           `"239.0.0.1:99999" is not ADDRESS`,
		"dnbd://[239.0.0.1]/x":               "is not ADDRESS",
		"dnbd://[ff15::1/x":                  "is not ADDRESS",
		"dnbd://239.0.0.1/a/b":               "characters other than",
		"a b":                                "characters other than",
		"-a":                                 "starts with",
		"@1":                                 "empty",
		"a@":                                 `revision ""`,
		"a@0":                                `revision "0"`,
		"a@x":                                `revision "x"`,
		"a@281474976710656":                  "is not a number from 1 to 281474976710655",
		"a@1@2":                              `revision "1@2"`,
		strings.Repeat("a", 129):             "129 characters",
		"dnbd://239.0.0.1/" + someID + "@1":  "would be taken for an image id",
		"dnbd://239.0.0.1/x?port=1":          "characters other than",
		"dnbd://user@239.0.0.1/x":            "is not ADDRESS",
		strings.Repeat("x", 300) + "://":     "unknown scheme",
		"dnbd://239.0.0.1/" + "\x00":         "characters other than",
		"dnbd://" + strings.Repeat("1", 500): "is not ADDRESS",
	} {
		got, err := Parse(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.60q) = %+v, %v, want an error with %q", in, got, err, want)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "image ") {
			t.Errorf("Parse(%.60q): %v does not name the image", in, err)
		}
	}
}

func TestParseGroupReadsAddressesAndURIs(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "239.0.0.1:10810",
		"239.0.0.7":               "239.0.0.7:10810",
		"239.0.0.7:1":             "239.0.0.7:1",
		"ff15::1":                 "[ff15::1]:10810",
		"[ff15::1]":               "[ff15::1]:10810",
		"[ff15::1]:1":             "[ff15::1]:1",
		"ff12::1%eth0":            "[ff12::1%eth0]:10810",
		"dnbd://239.0.0.7/":       "239.0.0.7:10810",
		"dnbd://239.0.0.7":        "239.0.0.7:10810",
		"dnbd://[ff12::1%25e0]:1": "[ff12::1%e0]:1",
	} {
		if got, err := ParseGroup(in); err != nil || got != netip.MustParseAddrPort(want) {
			t.Errorf("ParseGroup(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"debian":                  "not ADDRESS",
		"dnbd://239.0.0.7/debian": `leave out "debian"`,
		"dnbd://":                 "not ADDRESS",
		"239.0.0.7:port":          "not ADDRESS",
		"239.0.0.7:0":             "port 0",
	} {
		if got, err := ParseGroup(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseGroup(%q) = %v, %v, want an error with %q", in, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"a", "a@1", someID, "dnbd://239.0.0.1:7/a@9", "dnbd://[ff12::1%25eth0]:7/x", "dnbd://ff15::1", "dnbd://[::]/", "%25", "dnbd://[%25%25]/",
		"dnbd://[::1%25%25]/", "dnbd://[::1%25a]b]/",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(got.String())
		if err != nil || again != got {
			t.Errorf("Parse(%q) = %+v, written %q, and read back %+v, %v", s, got, got, again, err)
		}
		if group, err := ParseGroup(GroupURI(got.Group)); err != nil || group != got.Group {
			t.Errorf("group %v is written %q, and read back %v, %v", got.Group, GroupURI(got.Group), group, err)
		}
	})
}
