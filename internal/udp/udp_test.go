package udp

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestMessageYieldsEachDatagramOfATrain(t *testing.T) {
	for _, c := range []struct {
		data    string
		segment int
		want    []string
	}{
		{"", 0, nil},
		{"a", 1, []string{"a"}},
		{"abc", 3, []string{"abc"}},
		{"abcdef", 2, []string{"ab", "cd", "ef"}},
		{"abcde", 2, []string{"ab", "cd", "e"}},
		{"ab", 5, []string{"ab"}},
	} {
		m := Message{Data: []byte(c.data), Segment: c.segment}
		var got []string
		for _, s := range m.Segments(nil) {
			got = append(got, string(s))
			if cap(s) != len(s) {
				t.Errorf("%q by %d: appending to %q would overwrite what follows", c.data, c.segment, s)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q by %d: got %q, want %q", c.data, c.segment, got, c.want)
		}
	}
}

func TestSegmentsCountsWhatWasAdded(t *testing.T) {
	var s Segments
	for range 2 {
		s.Add([]byte("head"), []byte("payload"))
		s.Add(nil, []byte("x"))
		if s.Len() != 2 || s.Bytes() != 12 {
			t.Errorf("Len %d, Bytes %d, want 2 and 12", s.Len(), s.Bytes())
		}
		s.Reset()
		if s.Len() != 0 || s.Bytes() != 0 {
			t.Errorf("after Reset: Len %d, Bytes %d", s.Len(), s.Bytes())
		}
	}
}

func TestARunIsEqualDatagramsAndAShorterLast(t *testing.T) {
	equal := func(n, size int) []int { return slices.Repeat([]int{size}, n) }
	for _, c := range []struct {
		name  string
		sizes []int
		n     int
		short bool
	}{
		{"one", []int{5}, 1, false},
		{"equal", []int{5, 5, 5}, 3, false},
		{"shorter last", []int{5, 5, 3}, 3, true},
		{"shorter ends it", []int{5, 3, 5}, 2, true},
		{"longer does not belong", []int{5, 5, 6}, 2, false},
		{"growing", []int{5, 6, 7}, 1, false},
		{"empty does not belong", []int{5, 5, 0}, 2, false},
		{"empty first", []int{0, 5}, 1, false},
		{"two empty", []int{0, 0}, 1, false},
		{"64 at most", equal(65, 5), 64, false},
		{"64 with a shorter last", append(equal(63, 5), 1, 5), 64, true},
		{"65507 bytes at most", equal(50, 1400), 46, false},
		{"exactly 65507 bytes", []int{65506, 1}, 2, true},
		{"more than 65507 bytes", []int{65507, 1}, 1, false},
	} {
		var ds []datagram
		for _, size := range c.sizes {
			ds = append(ds, datagram{make([]byte, size/2), make([]byte, size-size/2)})
		}
		if n, short := run(ds); n != c.n || short != c.short {
			t.Errorf("%s: run is %d, shorter last %v, want %d, %v", c.name, n, short, c.n, c.short)
		}
	}
}

func TestGroupsAreMulticastAddresses(t *testing.T) {
	for _, c := range []struct{ addr, err string }{
		{"239.0.0.1", ""},
		{"224.0.0.1", ""},
		{"::ffff:239.0.0.1", ""},
		{"ff15::1", ""},
		{"ff12::1%eth0", ""},
		{"10.77.0.1", "group 10.77.0.1 is not a multicast address: take one of 239.0.0.0/8"},
		{"fd77::1", "group fd77::1 is not a multicast address: take one of ff15::/16"},
		{"255.255.255.255", "239.0.0.0/8"},
	} {
		err := CheckGroup(netip.MustParseAddr(c.addr))
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("CheckGroup(%s) = %v, want %q", c.addr, err, c.err)
		}
	}
	if CheckGroup(netip.Addr{}) == nil {
		t.Error("CheckGroup of no address = nil")
	}
}

func TestEnvironmentSwitchesOffloadsOff(t *testing.T) {
	for _, c := range []struct {
		gso, gro string
		want     Options
	}{
		{"", "", Options{}},
		{"1", "", Options{NoGSO: true}},
		{"0", "1", Options{NoGRO: true}},
	} {
		t.Setenv("DNBD_NO_GSO", c.gso)
		t.Setenv("DNBD_NO_GRO", c.gro)
		if got := OptionsFromEnv(); got != c.want {
			t.Errorf("DNBD_NO_GSO=%s DNBD_NO_GRO=%s: %+v, want %+v", c.gso, c.gro, got, c.want)
		}
	}
}

func TestAnUnknownInterfaceIsAnErrorThatListsThose(t *testing.T) {
	_, err := Interfaces("wlan9", netip.MustParseAddr("239.0.0.1"))
	if err == nil || !strings.HasPrefix(err.Error(), "no such interface wlan9; there are: ") {
		t.Errorf("Interfaces(wlan9) = %v", err)
	}
}

// A unicast socket on loopback is what every system has.
func TestATrainToOneAddressArrivesWhole(t *testing.T) {
	lo := Interface{Addr: netip.MustParseAddr("127.0.0.1"), MTU: 16384}
	from, err := ListenUnicast(lo, 0, OptionsFromEnv())
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := ListenUnicast(lo, 0, OptionsFromEnv())
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	var train Segments
	var want []byte
	for i := range 10 {
		header, payload := []byte{byte(i)}, bytes.Repeat([]byte{'a' + byte(i)}, 1000)
		train.Add(header, payload)
		want = append(append(want, header...), payload...)
	}
	if err := from.SendSegments(to.LocalAddr(), &train); err != nil {
		t.Fatal(err)
	}
	if err := from.Send(to.LocalAddr(), []byte("end")); err != nil {
		t.Fatal(err)
	}
	m := NewMessage()
	var got []byte
	for string(m.Data) != "end" {
		if _, err := to.Read(m); err != nil {
			t.Fatal(err)
		}
		if m.From != from.LocalAddr() {
			t.Errorf("from %v, want %v", m.From, from.LocalAddr())
		}
		for _, s := range m.Segments(nil) {
			if len(s) != 1001 && string(s) != "end" {
				t.Errorf("a datagram of %d bytes, want 1001", len(s))
			}
			got = append(got, s...)
		}
	}
	if !bytes.Equal(got, append(want, "end"...)) {
		t.Errorf("%d bytes arrived that are not the %d sent", len(got), len(want))
	}
}
