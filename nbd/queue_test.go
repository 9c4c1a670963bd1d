package nbd

import (
	"net"
	"net/netip"
	"testing"
)

func TestConnectionsWithinTheMachineAreKnown(t *testing.T) {
	tcp := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	for _, c := range []struct {
		from, to net.Addr
		within   bool
	}{
		{tcp("127.0.0.1:10809"), tcp("127.0.0.1:40000"), true},
		{tcp("127.0.0.2:10809"), tcp("127.0.0.1:40000"), true},
		{tcp("[::1]:10809"), tcp("[::1]:40000"), true},
		{tcp("[::ffff:192.0.2.1]:10809"), tcp("192.0.2.1:40000"), true},
		{tcp("192.0.2.1:10809"), tcp("192.0.2.2:40000"), false},
		{tcp("[fe80::1%eth0]:10809"), tcp("[fe80::2%eth0]:40000"), false},
		{&net.UnixAddr{Name: "/run/disk"}, &net.UnixAddr{}, false},
		{tcp("192.0.2.1:10809"), nil, false},
	} {
		if got := withinMachine(c.from, c.to); got != c.within {
			t.Errorf("withinMachine(%v, %v) = %v", c.from, c.to, got)
		}
	}
}
