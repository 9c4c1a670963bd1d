package udp

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// drops extends the kernel's 32-bit count of dropped packets, which wraps, to 64 bits.
type drops struct {
	mu    sync.Mutex
	last  uint32
	total uint64
}

// count takes a reading. Readings may come late: with a packet the kernel gives the count as it was when it was queued.
func (d *drops) count(now uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ahead := now - d.last; int32(ahead) > 0 {
		d.last = now
		d.total += uint64(ahead)
	}
}

// Drops is how many packets the system has dropped because the read buffer was full, or their checksum was wrong, since
// the socket was opened. A coalesced train counts as one.
//
// Each Read takes the count that came along (SO_RXQ_OVFL), so that it is never more than 2^31 behind and does not lose a
// wrap; Drops asks for the newest (SO_MEMINFO, Linux 4.12), since the last drops are followed by no packet that tells.
func (c *Conn) Drops() uint64 {
	var info [unix.SK_MEMINFO_DROPS + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	var errno error
	err := c.raw.Control(func(fd uintptr) {
		_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if e != 0 {
			errno = e
		}
	})
	if err == nil && errno == nil && size == uint32(unsafe.Sizeof(info)) {
		c.drops.count(info[unix.SK_MEMINFO_DROPS])
	}
	c.drops.mu.Lock()
	defer c.drops.mu.Unlock()
	return c.drops.total
}
