//go:build linux

package e2e

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"github.com/dnbd/dnbd/internal/wire"
)

// forgeData sends a symbol as if the server had, with a right header and wrong bytes: of a block that it may send next, or of any.
func (h *hostile) forgeData(netip.AddrPort, uint64) {
	d := h.data
	if d.K == 0 {
		return // none heard yet
	}
	d.Block = (d.Block + h.rand.Uint32N(8)) % h.blocks
	if h.rand.UintN(2) == 0 {
		d.Block = h.rand.Uint32N(h.blocks)
	}
	d.Index = uint16(h.rand.UintN(uint(d.K)))
	d.Seq += uint64(h.rand.UintN(3))
	d.Left = uint8(h.rand.UintN(uint(d.K)))
	h.spoof(h.from, h.server.Group, append(d.AppendHeader(nil), h.bytes(h.symbol)...))
}

// forgeWelcome offers the image, and another one under its name, from an address of its own and from the server's.
func (h *hostile) forgeWelcome(to netip.AddrPort, nonce uint64) {
	d := h.server.Descriptor
	o := wire.Offer{
		Handle: h.server.Handle, Algorithm: 1, BlockLog: 16, Size: uint64(d.Size), Revision: d.Revision, Created: d.Created.Unix(),
		Root: d.Root, Name: d.Name, Group: h.server.Group,
	}
	if h.rand.UintN(2) == 0 {
		copy(o.Root[:], h.bytes(32))
		o.Revision += uint64(h.rand.UintN(2))
	}
	w := wire.Welcome{
		Server: uint16(h.rand.UintN(4) + 1), Epoch: h.server.Epoch + h.rand.Uint32N(2), Nonce: nonce, Cookie: h.rand.Uint64(), Parts: 1,
		Offers: []wire.Offer{o},
	}
	b := w.Append(nil)
	if h.rand.UintN(2) == 0 {
		h.spoof(h.server.Addr, to, b)
	} else {
		h.say(to, b)
	}
}

// forgeAnnounce says that the server leaves, has withdrawn the image, or has started anew.
func (h *hostile) forgeAnnounce(netip.AddrPort, uint64) {
	a := wire.Announce{
		Server: h.server.Server, Epoch: h.server.Epoch, Leaving: h.rand.UintN(3) == 0, Rate: h.rand.Uint64(),
		Backlog: h.rand.Uint32N(1e6), Clients: uint16(h.rand.UintN(1 << 16)),
		Images: []wire.AnnouncedImage{{Handle: h.server.Handle, Tag: h.rand.Uint64()}},
	}
	if h.rand.UintN(2) == 0 {
		a.Epoch++
	}
	if h.rand.UintN(2) == 0 {
		a.Images[0].State = wire.ImageWithdrawn
		for i := range 8 {
			a.Images[0].Tag = a.Images[0].Tag<<8 | uint64(h.image[i])
		}
	}
	h.spoof(h.server.Addr, netip.MustParseAddrPort("239.0.0.1:10810"), a.Append(nil))
}

// forgeAnswer denies, or promises, what a client may have asked for.
func (h *hostile) forgeAnswer(to netip.AddrPort, _ uint64) {
	if h.rand.UintN(2) == 0 {
		d := wire.Deny{
			Server: h.server.Server, Handle: h.server.Handle, Epoch: h.server.Epoch, Time: h.rand.Uint32N(1e7),
			Reason: wire.Reason(h.rand.UintN(5)), Cookie: h.rand.Uint64(),
		}
		h.spoof(h.server.Addr, to, d.Append(nil))
		return
	}
	a := wire.Ack{
		Server: h.server.Server, Handle: h.server.Handle, Epoch: h.server.Epoch, Time: h.rand.Uint32N(1e7),
		Horizon: h.rand.Uint64N(wire.MaxSeq), Seq: h.rand.Uint64N(wire.MaxSeq), Backlog: h.rand.Uint32N(1e6), Queued: 1,
	}
	h.spoof(h.server.Addr, to, a.Append(nil))
}

// garbage sends any bytes, or a datagram that is cut off, to anybody.
func (h *hostile) garbage(to netip.AddrPort, _ uint64) {
	b := h.bytes(int(h.rand.UintN(1400)))
	if h.rand.UintN(2) == 0 && len(b) >= 4 {
		copy(b, []byte{0x44, 0x4e, wire.Version, byte(h.rand.UintN(8))})
	}
	everybody := []netip.AddrPort{to, h.server.Addr, h.server.Group, netip.MustParseAddrPort("239.0.0.1:10810")}
	if to = everybody[h.rand.UintN(4)]; h.rand.UintN(2) == 0 {
		h.spoof(h.server.Addr, to, b)
	} else {
		h.say(to, b)
	}
}

func (h *hostile) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(h.rand.Uint32())
	}
	return b
}

// say sends a datagram from the host's own address.
func (h *hostile) say(to netip.AddrPort, b []byte) {
	_, err := h.own.WriteToUDPAddrPort(b, to)
	h.count(err)
}

// spoof sends a datagram from any address: RFC 791 and RFC 768, without the checksum of UDP, which IPv4 allows. The kernel
// fills in the header's length and checksum.
func (h *hostile) spoof(from, to netip.AddrPort, b []byte) {
	src, dst := from.Addr().Unmap().As4(), to.Addr().Unmap().As4()
	p := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 1, 17, 0, 0}
	p = append(append(p, src[:]...), dst[:]...)
	length := 8 + len(b)
	for _, v := range []int{int(from.Port()), int(to.Port()), length, 0} {
		p = append(p, byte(v>>8), byte(v))
	}
	_, err := h.raw.WriteToIP(append(p, b...), &net.IPAddr{IP: net.IP(dst[:])})
	h.count(err)
}

func (h *hostile) count(err error) {
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		h.t.Errorf("the hostile host cannot send: %v", err)
		h.stop()
		return
	}
	h.sent++
}
