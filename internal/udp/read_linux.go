package udp

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reader is what recvmsg needs, kept so that a Read allocates nothing.
type reader struct {
	mu   sync.Mutex // held for a whole Read; guards the rest
	try  func(fd uintptr) bool
	hdr  unix.Msghdr
	iov  unix.Iovec
	from sockaddr
	oob  [160]byte // the control messages asked for take 36 + 32 + 20 + 20 bytes and their alignment

	n   int
	err error

	// A train mostly comes from the sender of the one before.
	lastRaw  sockaddr
	lastFrom netip.AddrPort
}

func (r *reader) init() {
	r.hdr.Iov = &r.iov
	r.hdr.SetIovlen(1)
	r.try = r.receive
}

// receive is called by the runtime when fd may have something to read; it returns false to wait for that.
func (r *reader) receive(fd uintptr) bool {
	for {
		// The kernel overwrites these.
		r.hdr.Name, r.hdr.Namelen = r.from.pointer(), unix.SizeofSockaddrInet6
		r.hdr.Control = &r.oob[0]
		r.hdr.SetControllen(len(r.oob))
		n, _, errno := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.hdr)), 0)
		switch errno {
		case 0:
			r.n, r.err = int(n), nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		default:
			r.err = errno
		}
		return true
	}
}

// Read waits for a datagram, or a train that arrived coalesced, and stores it in m, whose Data must have a capacity of
// MessageSize. It fails with net.ErrClosed once c is closed. It allocates nothing.
func (c *Conn) Read(m *Message) error {
	if cap(m.Data) < MessageSize {
		return fmt.Errorf("read from %v into %d bytes, want %d: %w", c.local, cap(m.Data), MessageSize, io.ErrShortBuffer)
	}
	r := &c.reader
	r.mu.Lock()
	defer r.mu.Unlock()
	r.iov.Base = unsafe.SliceData(m.Data)
	r.iov.SetLen(MessageSize)
	err := c.raw.Read(r.try)
	r.iov.Base = nil
	if err == nil {
		err = r.err
	}
	if err != nil {
		return fmt.Errorf("read from %v: %w", c.local, err)
	}
	m.Data = m.Data[:r.n]
	m.Segment = r.n
	m.IfIndex = 0
	m.Arrived = time.Now()
	if r.from != r.lastRaw {
		r.lastRaw, r.lastFrom = r.from, r.from.get(c.zoneName)
	}
	m.From = r.lastFrom
	c.parse(r.oob[:r.hdr.Controllen], m)
	return nil
}

// longestWait is how long a train can have waited to be read. More means that the clock was set.
const longestWait = 10 * time.Second

// before is now, less the time since the clock of the day was at ns, with the reading of the monotonic clock that now has.
func before(now time.Time, ns int64) time.Time {
	if wait := time.Duration(now.UnixNano() - ns); wait > 0 && wait < longestWait {
		return now.Add(-wait)
	}
	return now
}

// parse takes what the kernel tells about the train that was read.
func (c *Conn) parse(oob []byte, m *Message) {
	for len(oob) >= unix.SizeofCmsghdr {
		hdr, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return
		}
		oob = rest
		switch {
		case hdr.Level == unix.IPPROTO_UDP && hdr.Type == unix.UDP_GRO && len(data) >= 4:
			if size := int(binary.NativeEndian.Uint32(data)); size > 0 {
				m.Segment = min(size, len(m.Data))
			}
		case hdr.Level == unix.SOL_SOCKET && hdr.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			c.drops.count(binary.NativeEndian.Uint32(data))
		case hdr.Level == unix.SOL_SOCKET && hdr.Type == unix.SO_TIMESTAMPNS && len(data) >= int(unsafe.Sizeof(unix.Timespec{})):
			var at unix.Timespec
			copy(unsafe.Slice((*byte)(unsafe.Pointer(&at)), unsafe.Sizeof(at)), data)
			m.Arrived = before(m.Arrived, at.Nano())
		case hdr.Level == unix.IPPROTO_IP && hdr.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			m.IfIndex = int(binary.NativeEndian.Uint32(data)) // ipi_ifindex comes first
		case hdr.Level == unix.IPPROTO_IPV6 && hdr.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			m.IfIndex = int(binary.NativeEndian.Uint32(data[16:])) // ipi6_ifindex follows the address
		}
	}
}
