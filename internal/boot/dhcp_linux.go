package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenDHCP opens the two sockets on one interface. A DHCP server of this machine may have port 67, too, if it lets others: both
// hear what machines send to all.
func listenDHCP(ctx context.Context, ifi Interface) ([]dhcpSocket, error) {
	var sockets []dhcpSocket
	for _, port := range []int{dhcpPort, proxyPort} {
		address := netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port))
		l := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			ctlErr := c.Control(func(fd uintptr) {
				if port == dhcpPort {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
				}
				if err == nil {
					err = unix.BindToDevice(int(fd), ifi.Name)
				}
			})
			return errors.Join(ctlErr, err)
		}}
		c, err := l.ListenPacket(ctx, "udp4", address.String())
		if err != nil {
			for _, s := range sockets {
				s.Close()
			}
			return nil, explain("proxy-DHCP", fmt.Sprintf("port %d of %s", port, ifi.Name), err)
		}
		sockets = append(sockets, dhcpSocket{c.(*net.UDPConn), port})
	}
	return sockets, nil
}
