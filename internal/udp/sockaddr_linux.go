package udp

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockaddr is room for a socket address of either family. The kernel's form is used directly, since the interface value
// of package unix costs an allocation per datagram.
type sockaddr struct{ unix.RawSockaddrInet6 }

func (s *sockaddr) pointer() *byte { return (*byte)(unsafe.Pointer(&s.RawSockaddrInet6)) }

// set stores a and returns the length of what it stored. zone is the interface's number for an address that needs one.
func (s *sockaddr) set(a netip.AddrPort, zone uint32) uint32 {
	s.RawSockaddrInet6 = unix.RawSockaddrInet6{}
	if a.Addr().Unmap().Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.RawSockaddrInet6))
		v4.Family = unix.AF_INET
		putPort(&v4.Port, a.Port())
		v4.Addr = a.Addr().Unmap().As4()
		return unix.SizeofSockaddrInet4
	}
	s.Family = unix.AF_INET6
	putPort(&s.Port, a.Port())
	s.Addr = a.Addr().As16()
	s.Scope_id = zone
	return unix.SizeofSockaddrInet6
}

// get returns what the kernel stored; zoneName names the zone of an address that has one.
func (s *sockaddr) get(zoneName func(uint32) string) netip.AddrPort {
	switch s.Family {
	case unix.AF_INET:
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.RawSockaddrInet6))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), port(&v4.Port))
	case unix.AF_INET6:
		a := netip.AddrFrom16(s.Addr)
		if s.Scope_id != 0 {
			a = a.WithZone(zoneName(s.Scope_id))
		}
		return netip.AddrPortFrom(a, port(&s.Port))
	}
	return netip.AddrPort{}
}

// Ports are in network order whatever the machine's is.
func putPort(p *uint16, v uint16) { binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], v) }

func port(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }
