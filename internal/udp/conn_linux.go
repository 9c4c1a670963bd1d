package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is a UDP socket for a group. Its methods may be called from many goroutines at once.
type Conn struct {
	udp    *net.UDPConn // owns the descriptor: the runtime's poller, deadlines and Close work on it
	raw    syscall.RawConn
	local  netip.AddrPort
	ifaces []Interface // one for a Conn of ListenUnicast
	buffer int         // granted read buffer

	reader  reader
	drops   drops
	bulk    bulk    // SendSegments
	control control // Send
}

// ListenUnicast opens a socket bound to i's address and port; a port of 0 is chosen by the system. It hears what is sent
// to that address. What it sends to a group leaves by i, with the hop limit of o, and is heard on this host too.
func ListenUnicast(i Interface, port uint16, o Options) (*Conn, error) {
	o = o.withDefaults()
	addr := netip.AddrPortFrom(i.Addr.Unmap(), port)
	c := &Conn{ifaces: []Interface{i}}
	fd, err := socket(addr.Addr())
	if err != nil {
		return nil, fmt.Errorf("listen on %v: %w", addr, err)
	}
	if err := errors.Join(setSending(fd, i, o), c.setReading(fd, addr.Addr(), o), c.bind(fd, addr)); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EADDRINUSE) {
			if who := holder(addr); who != "" {
				err = fmt.Errorf("%w: held by %s", err, who)
			}
		}
		return nil, fmt.Errorf("listen on %v: %w", addr, err)
	}
	return c.start(fd, o)
}

// ListenGroup opens a socket that hears what is sent to group on each of ifaces. Other sockets, of this and of other
// processes, may listen to the same group on this host; each hears everything.
func ListenGroup(group netip.AddrPort, ifaces []Interface, o Options) (*Conn, error) {
	o = o.withDefaults()
	group = netip.AddrPortFrom(group.Addr().Unmap(), group.Port())
	if err := CheckGroup(group.Addr()); err != nil {
		return nil, err
	}
	if len(ifaces) == 0 {
		return nil, fmt.Errorf("listen to group %v: no interface given", group)
	}
	bindTo := group
	if a := group.Addr(); a.Is6() && a.IsLinkLocalMulticast() {
		// The address alone does not say on which link, and a socket can be bound to one of them only.
		if len(ifaces) > 1 {
			return nil, fmt.Errorf("listen to group %v: it is link-local and there are %d interfaces: name one",
				group, len(ifaces))
		}
		bindTo = netip.AddrPortFrom(a.WithZone(ifaces[0].Name), group.Port())
	}
	c := &Conn{ifaces: ifaces}
	fd, err := socket(group.Addr())
	if err != nil {
		return nil, fmt.Errorf("listen to group %v: %w", group, err)
	}
	err = errors.Join(
		sockopt("SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)),
		c.setReading(fd, group.Addr(), o),
		c.bind(fd, bindTo),
		join(fd, group.Addr(), ifaces))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen to group %v: %w", group, err)
	}
	if c.buffer < 2*o.ReadBuffer { // bursts come to groups
		o.Log.Warn("small read buffer, bursts may be lost: run as root, or raise sysctl net.core.rmem_max",
			"group", group, "bytes", c.buffer/2, "want", o.ReadBuffer)
	}
	return c.start(fd, o)
}

// start hands fd to the runtime. fd is c's, or closed, afterwards.
func (c *Conn) start(fd int, o Options) (*Conn, error) {
	f := os.NewFile(uintptr(fd), "udp")
	defer f.Close() // FilePacketConn works on a duplicate
	p, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("listen on %v: %w", c.local, err)
	}
	c.udp = p.(*net.UDPConn)
	if c.raw, err = c.udp.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %v: %w", c.local, err), c.udp.Close())
	}
	c.reader.init()
	c.bulk.init(o)
	c.control.init()
	return c, nil
}

// LocalAddr is the address and port that the socket is bound to; the group's for a Conn of ListenGroup.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// ReadBuffer is the size of the receive buffer that the system granted, in bytes of its memory: on Linux twice what was
// asked for, unless that exceeded a limit. A single datagram of 1440 bytes occupies some 2300 of them.
func (c *Conn) ReadBuffer() int { return c.buffer }

// SetReadDeadline makes Read fail with os.ErrDeadlineExceeded from t on; the zero time is never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if err := c.udp.SetReadDeadline(t); err != nil {
		return fmt.Errorf("set read deadline of %v: %w", c.local, err)
	}
	return nil
}

// Close releases the socket. Calls under way, and later ones, fail with net.ErrClosed. A second Close does nothing.
func (c *Conn) Close() error {
	if err := c.udp.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close %v: %w", c.local, err)
	}
	return nil
}

// bind binds fd and learns the port.
func (c *Conn) bind(fd int, a netip.AddrPort) error {
	var sa unix.Sockaddr
	if a.Addr().Is4() {
		sa = &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	} else {
		zone, err := c.zoneIndex(a.Addr())
		if err != nil {
			return err
		}
		sa = &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zone}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return os.NewSyscallError("bind", err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	port := a.Port()
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		port = uint16(b.Port)
	case *unix.SockaddrInet6:
		port = uint16(b.Port)
	}
	c.local = netip.AddrPortFrom(a.Addr(), port)
	return nil
}

// zoneIndex returns the number of a's zone, 0 if it has none.
func (c *Conn) zoneIndex(a netip.Addr) (uint32, error) {
	zone := a.Zone()
	if zone == "" {
		if a.IsLinkLocalMulticast() || a.IsLinkLocalUnicast() {
			return uint32(c.ifaces[0].Index), nil
		}
		return 0, nil
	}
	for _, i := range c.ifaces {
		if i.Name == zone {
			return uint32(i.Index), nil
		}
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("zone of %v: %w", a, err)
	}
	return uint32(i.Index), nil
}

// zoneName is the inverse of zoneIndex.
func (c *Conn) zoneName(index uint32) string {
	for _, i := range c.ifaces {
		if i.Index == int(index) {
			return i.Name
		}
	}
	return strconv.FormatUint(uint64(index), 10)
}
