package querier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// packetSize is more than any packet on the way here: what is longer is cut, and is no query then.
const packetSize = 9216

// control is the precedence of what keeps a network working (RFC 9776 section 4), in the field for the type of service.
const control = 0xc0

var (
	// allHosts are whom a general query asks.
	allHosts4 = net.IPv4(224, 0, 0, 1)
	allHosts6 = net.ParseIP("ff02::1")
	// alert makes routers look at a packet that is not for them (RFC 2113; RFC 2711, with the header before it and two bytes of padding).
	alert4 = []byte{0x94, 4, 0, 0}
	alert6 = []byte{0, 0, 5, 2, 0, 0, 1, 0}
)

// listen opens a raw socket on an interface alone.
func listen(name, network, addr string) (net.PacketConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), name) })
		return errors.Join(err, failed)
	}}
	conn, err := config.ListenPacket(context.Background(), network, addr)
	if err != nil {
		return nil, fmt.Errorf("open a raw socket: %w", err)
	}
	return conn, nil
}

// igmp is a socket for IGMP.
type igmp struct {
	*ipv4.RawConn
	header  ipv4.Header
	message []byte
	buf     []byte
}

func listenIGMP(name string, self netip.Addr, t timing) (socket, error) {
	conn, err := listen(name, "ip4:2", "0.0.0.0")
	if err != nil {
		return nil, err
	}
	raw, err := ipv4.NewRawConn(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	message := t.appendIGMP(nil)
	length := ipv4.HeaderLen + len(alert4)
	return &igmp{raw, ipv4.Header{
		Version: ipv4.Version, Len: length, TOS: control, TotalLen: length + len(message), TTL: 1, Protocol: unix.IPPROTO_IGMP,
		Src: self.AsSlice(), Dst: allHosts4, Options: alert4,
	}, message, make([]byte, packetSize)}, nil
}

// query sends a copy to this host, too: it may be a member of something.
func (s *igmp) query() error { return s.WriteTo(&s.header, s.message, nil) }

func (s *igmp) hear() (from netip.Addr, said timing, ok bool, err error) {
	h, message, _, err := s.ReadFrom(s.buf)
	if err != nil {
		return netip.Addr{}, timing{}, false, err
	}
	from, _ = netip.AddrFromSlice(h.Src.To4())
	said, ok = parseIGMP(message)
	return from, said, ok && h.TTL == 1, nil // what came through a router has no say here
}

// mld is a socket for MLD.
type mld struct {
	*ipv6.PacketConn
	to      *net.IPAddr
	message []byte
	buf     []byte
}

func listenMLD(name string, self netip.Addr, t timing) (_ socket, err error) {
	conn, err := listen(name, "ip6:58", self.String())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	s := &mld{ipv6.NewPacketConn(conn), &net.IPAddr{IP: allHosts6, Zone: name}, t.appendMLD(nil), make([]byte, packetSize)}
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeMulticastListenerQuery)
	raw, err := conn.(*net.IPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	set := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptString(int(fd), unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, string(alert6))
	})
	err = errors.Join(err, set,
		s.SetICMPFilter(&filter),
		s.SetMulticastHopLimit(1),
		s.SetMulticastLoopback(true), // this host may be a member of something, too
		s.SetControlMessage(ipv6.FlagHopLimit, true))
	if err != nil {
		return nil, fmt.Errorf("prepare the raw socket: %w", err)
	}
	return s, nil
}

func (s *mld) query() error {
	_, err := s.WriteTo(s.message, nil, s.to)
	return err
}

func (s *mld) hear() (from netip.Addr, said timing, ok bool, err error) {
	n, cm, src, err := s.ReadFrom(s.buf)
	if err != nil {
		return netip.Addr{}, timing{}, false, err
	}
	if a, is := src.(*net.IPAddr); is {
		from, _ = netip.AddrFromSlice(a.IP)
	}
	said, ok = parseMLD(s.buf[:n])
	return from, said, ok && from.IsLinkLocalUnicast() && cm != nil && cm.HopLimit == 1, nil
}
