package nbdconf

import (
	"net/netip"
	"testing"
)

func TestExpandNameHasTheManualsNames(t *testing.T) {
	for _, c := range []struct{ name, style, client, want string }{
		{"/export/%s", "ipliteral", "192.168.1.100", "/export/192.168.1.100"},
		{"/export/%s", "iphash", "192.168.1.100", "/export/192/168/1/100"},
		{"/export/%s", "cidrhash 16", "192.168.1.100", "/export/192.168.0.0/192.168.1.100"},
		{"/export/%s", "cidrhash 26", "192.168.1.100", "/export/192.168.1.64/192.168.1.100"},
		{"/export/%s", "cidrhash 0", "192.168.1.100", "/export/0.0.0.0/192.168.1.100"},
		{"/export/%s", "cidrhash 128", "192.168.1.100", "/export/192.168.1.100/192.168.1.100"},
		{"/export/%s", "none", "192.168.1.100", "/export/%s"},
		{"/export/100%", "none", "192.168.1.100", "/export/100%"},
		{"/export/100%%", "ipliteral", "192.168.1.100", "/export/100%"},
		{"/export/%%s-%s", "ipliteral", "192.168.1.100", "/export/%s-192.168.1.100"},
		{"/export/x", "cidrhash 8", "192.168.1.100", "/export/x"},
		// A client of a socket for both is one of IPv4 all the same.
		{"/export/%s", "ipliteral", "::ffff:192.168.1.100", "/export/192.168.1.100"},
		{"/export/%s", "cidrhash 16", "::ffff:192.168.1.100", "/export/192.168.0.0/192.168.1.100"},
		{"/export/%s", "ipliteral", "2001:6f8:32f::39", "/export/2001:6f8:32f::39"},
		{"/export/%s", "iphash", "2001:6f8:32f::39", "/export/2001:6f8:32f::39"},
		{"/export/%s", "cidrhash 42", "2001:6f8:32f::39", "/export/2001:6f8:300::/2001:6f8:32f::39"},
		{"/export/%s", "ipliteral", "fe80::1%eth0", "/export/fe80::1%eth0"},
		{"/export/%s", "cidrhash 64", "fe80::1%eth0", "/export/fe80::/fe80::1%eth0"},
		{"/export/%s", "ipliteral", "", "/export/unix"},
		{"/export/%s", "iphash", "", "/export/unix"},
		{"/export/%s", "cidrhash 16", "", "/export/unix"},
		{"/export/%s/%s", "ipliteral", "", ""},
		{"/export/%d", "ipliteral", "", ""},
		{"/export/%", "ipliteral", "", ""},
	} {
		var style VirtStyle
		if err := style.UnmarshalText([]byte(c.style)); err != nil {
			t.Fatal(err)
		}
		var client netip.Addr
		if c.client != "" {
			client = netip.MustParseAddr(c.client)
		}
		if got, err := ExpandName(c.name, style, client); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s with %s for %q: got %q, %v, want %q", c.name, c.style, c.client, got, err, c.want)
		}
	}
}

func TestVirtStyleIsReadAndWritten(t *testing.T) {
	for text, want := range map[string]string{
		"none": "none", "ipliteral": "ipliteral", " iphash ": "iphash", "cidrhash  24 ": "cidrhash 24", "cidrhash 0": "cidrhash 0",
		"": "", "iphashx": "", "cidrhash": "", "cidrhash 129": "", "cidrhash -1": "", "cidrhash 1 2": "", "none 1": "", "foo": "",
	} {
		var style VirtStyle
		err := style.UnmarshalText([]byte(text))
		if want == "" {
			if err == nil {
				t.Errorf("%q is read as %v", text, style)
			}
			continue
		}
		if got, werr := style.MarshalText(); err != nil || werr != nil || string(got) != want {
			t.Errorf("%q: got %q, %v, %v", text, got, err, werr)
		}
	}
	if _, err := (VirtStyle{Kind: 9}).MarshalText(); err == nil {
		t.Error("a kind that is none is written")
	}
}

func TestExpandCommandNamesTheFile(t *testing.T) {
	if got := ExpandCommand("cp %s %s.bak; date +%d", "/f"); got != "cp /f /f.bak; date +%d" {
		t.Error(got)
	}
}
