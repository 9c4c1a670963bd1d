package server

import (
	"net/netip"

	"github.com/dnbd/dnbd/image"
)

// dataGroup is the group that an image's data is sent to: in the neighbourhood of the discovery group, so that it has the same
// scope and lies in the same block of addresses, and chosen by the image's id, so that replicas agree and nobody hears what he
// did not import. Of an IPv4 group the last two bytes vary, of an IPv6 group the last four. Link-local IPv4 groups
// (224.0.0.0/24) have no such neighbourhood; there data goes to the discovery group itself.
func dataGroup(discovery netip.AddrPort, id image.ID) netip.AddrPort {
	if discovery.Addr().Is4() {
		a := discovery.Addr().As4()
		if a[0] == 224 && a[1] == 0 && a[2] == 0 {
			return discovery
		}
		a[2], a[3] = id[0], id[1]
		if netip.AddrFrom4(a) == discovery.Addr() {
			a[3] ^= 1
		}
		return netip.AddrPortFrom(netip.AddrFrom4(a), discovery.Port())
	}
	a := discovery.Addr().As16()
	copy(a[12:], id[:4])
	if netip.AddrFrom16(a) == discovery.Addr() {
		a[15] ^= 1
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a).WithZone(discovery.Addr().Zone()), discovery.Port())
}
