package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// socket opens a non-blocking UDP socket of a's family.
func socket(a netip.Addr) (int, error) {
	domain := unix.AF_INET
	if a.Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	return fd, os.NewSyscallError("socket", err)
}

// setSending sets what ListenUnicast promises about datagrams that leave.
func setSending(fd int, i Interface, o Options) error {
	set := func(level, name, value int) error { return unix.SetsockoptInt(fd, level, name, value) }
	// FORCE exceeds net.core.wmem_max, if we have CAP_NET_ADMIN.
	if set(unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, o.WriteBuffer) != nil {
		if err := set(unix.SOL_SOCKET, unix.SO_SNDBUF, o.WriteBuffer); err != nil {
			return sockopt("SO_SNDBUF", err)
		}
	}
	// PROBE sets DF and holds to the interface's MTU, but believes no ICMP message about a smaller one: those can be
	// forged, and multicast has no path to probe.
	if i.Addr.Is4() {
		return errors.Join(
			sockopt("IP_MTU_DISCOVER", set(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)),
			sockopt("IP_MULTICAST_TTL", set(unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, o.TTL)),
			sockopt("IP_MULTICAST_LOOP", set(unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 1)),
			sockopt("IP_MULTICAST_IF", unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF,
				&unix.IPMreqn{Ifindex: int32(i.Index)})))
	}
	return errors.Join(
		sockopt("IPV6_MTU_DISCOVER", set(unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)),
		sockopt("IPV6_DONTFRAG", set(unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)),
		sockopt("IPV6_MULTICAST_HOPS", set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, o.TTL)),
		sockopt("IPV6_MULTICAST_LOOP", set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 1)),
		sockopt("IPV6_MULTICAST_IF", set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, i.Index)))
}

// setReading sets what Read and Drops rely on.
func (c *Conn) setReading(fd int, a netip.Addr, o Options) error {
	set := func(level, name, value int) error { return unix.SetsockoptInt(fd, level, name, value) }
	if set(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, o.ReadBuffer) != nil { // as with SO_SNDBUFFORCE
		if err := set(unix.SOL_SOCKET, unix.SO_RCVBUF, o.ReadBuffer); err != nil {
			return sockopt("SO_RCVBUF", err)
		}
	}
	var err error
	if c.buffer, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil {
		return sockopt("SO_RCVBUF", err)
	}
	if !o.NoGRO {
		if err := set(unix.IPPROTO_UDP, unix.UDP_GRO, 1); err != nil { // before Linux 5.0
			o.Log.Info("no coalesced receiving (GRO)", "err", sockopt("UDP_GRO", err))
		}
	}
	err = errors.Join(
		sockopt("SO_RXQ_OVFL", set(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)),
		sockopt("SO_TIMESTAMPNS", set(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)))
	if a.Is4() {
		return errors.Join(err, sockopt("IP_PKTINFO", set(unix.IPPROTO_IP, unix.IP_PKTINFO, 1)))
	}
	return errors.Join(err,
		sockopt("IPV6_V6ONLY", set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)),
		sockopt("IPV6_RECVPKTINFO", set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)))
}

// join joins group on each of ifaces, and hears of no other socket's memberships.
func join(fd int, group netip.Addr, ifaces []Interface) error {
	for _, i := range ifaces {
		var err error
		if group.Is4() {
			err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
				&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(i.Index)})
		} else {
			err = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
				&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(i.Index)})
		}
		switch {
		case errors.Is(err, unix.ENOBUFS):
			return fmt.Errorf("join on %s: %w: too many groups joined, raise sysctl net.ipv4.igmp_max_memberships", i.Name, err)
		case err != nil:
			return fmt.Errorf("join on %s: %w", i.Name, err)
		}
	}
	// Without this, Linux delivers what any socket of the host has joined on any interface.
	if group.Is4() {
		return sockopt("IP_MULTICAST_ALL", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0))
	}
	err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0)
	if errors.Is(err, unix.ENOPROTOOPT) { // before Linux 4.20
		err = nil
	}
	return sockopt("IPV6_MULTICAST_ALL", err)
}

// sockopt says which option err is about; nil stays nil.
func sockopt(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("socket option %s: %w", name, err)
}
