//go:build !linux

package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Conn is a UDP socket for a group. Its methods may be called from many goroutines at once.
//
// This is the plain twin of the one for Linux: a call per datagram, no count of drops, and no don't-fragment flag, which
// does not matter to those who keep to the interface's MTU.
type Conn struct {
	udp    *net.UDPConn
	local  netip.AddrPort
	ifaces []Interface
	buffer int

	ignored atomic.Pointer[netip.AddrPort]

	mu      sync.Mutex // guards scratch, and is held for a whole train
	scratch []byte
}

// ListenUnicast opens a socket bound to i's address and port; a port of 0 is chosen by the system. It hears what is sent
// to that address. What it sends to a group leaves by i, with the hop limit of o, and is heard on this host too.
func ListenUnicast(i Interface, port uint16, o Options) (*Conn, error) {
	addr := netip.AddrPortFrom(i.Addr.Unmap(), port)
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, fmt.Errorf("listen on %v: %w", addr, err)
	}
	o = o.withDefaults()
	if i.Addr.Is4() {
		p := ipv4.NewPacketConn(udp)
		err = errors.Join(p.SetMulticastTTL(o.TTL), p.SetMulticastLoopback(true), p.SetMulticastInterface(i.net()))
	} else {
		p := ipv6.NewPacketConn(udp)
		err = errors.Join(p.SetMulticastHopLimit(o.TTL), p.SetMulticastLoopback(true), p.SetMulticastInterface(i.net()))
	}
	return start(udp, udp.LocalAddr().(*net.UDPAddr).AddrPort(), []Interface{i}, o, err)
}

// ListenGroup opens a socket that hears what is sent to group on each of ifaces. Other sockets, of this and of other
// processes, may listen to the same group on this host; each hears everything.
func ListenGroup(group netip.AddrPort, ifaces []Interface, o Options) (*Conn, error) {
	group = netip.AddrPortFrom(group.Addr().Unmap(), group.Port())
	if err := CheckGroup(group.Addr()); err != nil {
		return nil, err
	}
	if len(ifaces) == 0 {
		return nil, fmt.Errorf("listen to group %v: no interface given", group)
	}
	addr := net.UDPAddrFromAddrPort(group)
	udp, err := net.ListenMulticastUDP("udp", ifaces[0].net(), addr)
	if err != nil {
		return nil, fmt.Errorf("listen to group %v: join on %s: %w", group, ifaces[0].Name, err)
	}
	var errs []error
	for _, i := range ifaces[1:] {
		if group.Addr().Is4() {
			err = ipv4.NewPacketConn(udp).JoinGroup(i.net(), addr)
		} else {
			err = ipv6.NewPacketConn(udp).JoinGroup(i.net(), addr)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("join on %s: %w", i.Name, err))
		}
	}
	return start(udp, group, ifaces, o.withDefaults(), errors.Join(errs...))
}

// start makes the Conn, or closes udp when err, of what was asked of it, is not nil.
func start(udp *net.UDPConn, local netip.AddrPort, ifaces []Interface, o Options, err error) (*Conn, error) {
	err = errors.Join(err, udp.SetReadBuffer(o.ReadBuffer), udp.SetWriteBuffer(o.WriteBuffer))
	if err != nil {
		udp.Close()
		return nil, fmt.Errorf("listen on %v: %w", local, err)
	}
	return &Conn{udp: udp, local: local, ifaces: ifaces, buffer: o.ReadBuffer}, nil
}

// net returns i as package net names it; nil, for the system's choice, if i is only an address.
func (i Interface) net() *net.Interface {
	if i.Index == 0 {
		return nil
	}
	return &net.Interface{Index: i.Index, Name: i.Name, MTU: i.MTU}
}

// LocalAddr is the address and port that the socket is bound to; the group's for a Conn of ListenGroup.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// ReadBuffer is the size of the receive buffer that was asked for, in bytes.
func (c *Conn) ReadBuffer() int { return c.buffer }

// Drops is always 0: the system does not tell.
func (c *Conn) Drops() uint64 { return 0 }

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

// Read waits for a datagram and stores it in the first of ms, and returns 1. The Data of each must have a capacity of MessageSize. It
// fails with net.ErrClosed once c is closed. IfIndex is known only where c has a single interface.
func (c *Conn) Read(ms ...*Message) (int, error) {
	if err := c.checkRoom(ms); err != nil {
		return 0, err
	}
	m := ms[0]
	for {
		n, from, err := c.udp.ReadFromUDPAddrPort(m.Data[:MessageSize])
		if err != nil {
			return 0, fmt.Errorf("read from %v: %w", c.local, err)
		}
		m.Data, m.Segment, m.IfIndex, m.Arrived = m.Data[:n], n, 0, time.Now()
		m.From = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if ignored := c.ignored.Load(); ignored == nil || *ignored != m.From {
			break
		}
	}
	if len(c.ifaces) == 1 {
		m.IfIndex = c.ifaces[0].Index
	}
	return 1, nil
}

// Ignore makes c no longer hear what comes from one address and port: those who send to a group that they also listen to
// are spared their own trains. A second call replaces the first.
func (c *Conn) Ignore(from netip.AddrPort) error {
	c.ignored.Store(&from)
	return nil
}

// Send sends one datagram. The system waits for room if it must.
func (c *Conn) Send(to netip.AddrPort, p []byte) error {
	if _, err := c.udp.WriteToUDPAddrPort(p, to); err != nil {
		return fmt.Errorf("send to %v: %w", to, err)
	}
	return nil
}

// SendSegments sends the datagrams of s to one address, in order, waiting while the write buffer is full. After an error,
// a head of the train may have been sent.
func (c *Conn) SendSegments(to netip.AddrPort, s *Segments) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range s.datagrams {
		c.scratch = append(append(c.scratch[:0], d.header...), d.payload...)
		if err := c.Send(to, c.scratch); err != nil {
			return err
		}
	}
	return nil
}
