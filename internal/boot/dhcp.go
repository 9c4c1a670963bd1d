package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// dhcpSocket hears one of the two ports.
type dhcpSocket struct {
	*net.UDPConn
	port int
}

// maxPacket is more than DHCP packets have: what is longer is cut, and so no DHCP.
const maxPacket = 2048

// serveDHCP answers what comes in at a socket until the context ends.
func (s *Server) serveDHCP(ctx context.Context, d dhcpSocket) error {
	stop := context.AfterFunc(ctx, func() { d.Close() })
	defer stop()
	defer d.Close()
	buf := make([]byte, maxPacket)
	for {
		n, from, err := d.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("receive DHCP at port %d: %w", d.port, err)
		}
		reply := s.proxy.answer(buf[:n], d.port)
		if reply == nil {
			continue
		}
		to := destination(reply, d.port, from)
		if _, err := d.WriteToUDPAddrPort(reply.ToBytes(), to); err != nil {
			if ctx.Err() == nil {
				s.log.Warn("answer by DHCP", "machine", reply.ClientHWAddr.String(), "to", to, "error", err)
			}
			continue
		}
		s.log.Info("told what to boot", "machine", reply.ClientHWAddr.String(), "file", reply.BootFileName, "port", d.port)
	}
}

// destination is where an answer goes: back to who asked the proxy itself, to the relay that passed a request on, or, as the
// machine has no address yet, to all.
func destination(reply *dhcpv4.DHCPv4, port int, from netip.AddrPort) netip.AddrPort {
	if port == proxyPort {
		return from
	}
	if relay, ok := netip.AddrFromSlice(reply.GatewayIPAddr.To4()); ok && !relay.IsUnspecified() {
		return netip.AddrPortFrom(relay, dhcpPort)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), dhcpClientPort)
}
