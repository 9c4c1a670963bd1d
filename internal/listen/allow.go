package listen

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
)

// ParsePrefix reads a network in CIDR notation, or a single address.
func ParsePrefix(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(ip.Unmap().WithZone(""), ip.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("network %.100q: it is no address and no ADDRESS/BITS", s)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("network %s has bits set beyond its first %d; %s is meant, or %s", p, p.Bits(), p.Masked(), p.Addr())
	}
	return p, nil
}

// Allow is l with clients from other networks than these turned away, which log says. Clients that have no IP address, those of unix
// sockets for one, are never turned away: the file's permissions decide about them.
func Allow(l net.Listener, networks []netip.Prefix, log *slog.Logger) net.Listener {
	if len(networks) == 0 {
		return l
	}
	return &allowing{l, networks, log}
}

type allowing struct {
	net.Listener
	networks []netip.Prefix
	log      *slog.Logger
}

// Accept implements net.Listener.
func (l *allowing) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || Allowed(l.networks, conn.RemoteAddr()) {
			return conn, err
		}
		l.log.Warn("client turned away: its network is not allowed", "client", conn.RemoteAddr())
		if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			l.log.Debug("close", "client", conn.RemoteAddr(), "error", err)
		}
	}
}

// Allowed says whether an address lies in one of the networks, or has no IP address.
func Allowed(networks []netip.Prefix, addr net.Addr) bool {
	t, ok := addr.(*net.TCPAddr)
	if !ok {
		return true
	}
	return AllowedIP(networks, t.AddrPort().Addr())
}

// AllowedIP says whether an IP address lies in one of the networks.
func AllowedIP(networks []netip.Prefix, ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ip) })
}
