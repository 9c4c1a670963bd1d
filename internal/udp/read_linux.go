package udp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reader is what recvmmsg needs, kept so that a Read allocates nothing.
type reader struct {
	mu   sync.Mutex // held for a whole Read; guards the rest
	try  func(fd uintptr) bool
	hdrs [Batch]unix.Mmsghdr
	iovs [Batch]unix.Iovec
	from [Batch]sockaddr
	oobs [Batch][160]byte // the control messages asked for take 36 + 32 + 20 + 20 bytes and their alignment

	want int // messages
	n    int
	err  error

	// The kernel coalesces: what waits is few trains, and one of them at a time stays in the processor's cache.
	trains bool

	// A train mostly comes from the sender of the one before.
	lastRaw  sockaddr
	lastFrom netip.AddrPort
}

func (r *reader) init() {
	for i := range r.hdrs {
		r.hdrs[i].Hdr = unix.Msghdr{Name: r.from[i].pointer(), Iov: &r.iovs[i], Control: &r.oobs[i][0]}
		r.hdrs[i].Hdr.SetIovlen(1)
	}
	r.try = r.receive
}

// load points the headers at ms, and sets what the kernel has overwritten.
func (r *reader) load(ms []*Message) {
	for i, m := range ms {
		r.iovs[i].Base = unsafe.SliceData(m.Data)
		r.iovs[i].SetLen(MessageSize)
		r.hdrs[i].Hdr.Namelen = unix.SizeofSockaddrInet6
		r.hdrs[i].Hdr.SetControllen(len(r.oobs[i]))
	}
	r.want = len(ms)
}

// receive is called by the runtime when fd may have something to read; it returns false to wait for that.
func (r *reader) receive(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.hdrs)), uintptr(r.want), 0, 0, 0)
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

// Read waits for a datagram, or a train that arrived coalesced, and stores it in the first of ms. What else is there already goes to
// the others of ms; those from Batch on are never used. It returns how many were filled. The Data of each must have a
// capacity of MessageSize. It fails with net.ErrClosed once c is closed. It allocates nothing.
func (c *Conn) Read(ms ...*Message) (int, error) {
	if err := c.checkRoom(ms); err != nil {
		return 0, err
	}
	r := &c.reader
	r.mu.Lock()
	defer r.mu.Unlock()
	ms = ms[:min(len(ms), Batch)]
	if r.trains {
		ms = ms[:1]
	}
	r.load(ms)
	err := c.raw.Read(r.try)
	clear(r.iovs[:len(ms)]) // do not keep the buffers alive
	if err == nil {
		err = r.err
	}
	if err != nil {
		return 0, fmt.Errorf("read from %v: %w", c.local, err)
	}
	r.trains = false
	now := time.Now()
	for i, m := range ms[:r.n] {
		hdr := &r.hdrs[i]
		m.Data = m.Data[:hdr.Len]
		m.Segment = len(m.Data)
		m.IfIndex = 0
		m.Arrived = now
		if r.from[i] != r.lastRaw {
			r.lastRaw, r.lastFrom = r.from[i], r.from[i].get(c.zoneName)
		}
		m.From = r.lastFrom
		c.parse(r.oobs[i][:hdr.Hdr.Controllen], m)
		r.trains = r.trains || m.Segment < len(m.Data)
	}
	return r.n, nil
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
