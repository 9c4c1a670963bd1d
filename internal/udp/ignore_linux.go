package udp

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Ignore makes c no longer hear what comes from one address and port: those who send to a group that they also listen to
// are spared their own trains. The kernel discards them before they wake a reader or fill the buffer, but counts
// them in Drops. A second call replaces the first.
func (c *Conn) Ignore(from netip.AddrPort) error {
	filter := ignoreFilter(from)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	var err error
	if e := c.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	}); e != nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("ignore %v at %v: %w", from, c.local, err)
	}
	return nil
}

// ignoreFilter is a classic BPF program that keeps all packets but those from one address and port. It sees a packet from
// the UDP header on, whose first field is the source port, and, at netOffset, from the IP header on.
func ignoreFilter(from netip.AddrPort) []unix.SockFilter {
	const netOffset uint32 = 1<<32 - 0x100000 // SKF_NET_OFF of linux/filter.h
	addr := from.Addr().Unmap().AsSlice()
	offset := 12 // of the source address: RFC 791
	if len(addr) == 16 {
		offset = 8 // RFC 8200
	}
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 0}}
	words := len(addr) / 4
	different := func(value uint32, compared int) {
		// On to the next comparison, or past what is left of them and the discard.
		filter = append(filter, unix.SockFilter{
			Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: uint8(2*(words-compared) + 1),
		})
	}
	different(uint32(from.Port()), 0)
	for i := range words {
		filter = append(filter, unix.SockFilter{
			Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: netOffset + uint32(offset+4*i),
		})
		different(binary.BigEndian.Uint32(addr[4*i:]), i+1)
	}
	return append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1})
}
