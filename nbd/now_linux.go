package nbd

import (
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Design
//
// Go is told of each system call, since the thread may have to wait in it. When it takes more than 20 µs, as copying a
// large reply does, Go's monitor gives the processor to another thread, which finds nothing to do, and looks again 20 µs
// later. The monitor alone took a quarter of the processor time of a server whose clients read much. So Go is not told of
// the calls below. They do not wait, and because Go has to wait for them before it collects garbage they move a bounded
// amount. Calls that may wait, for a disk or a client, must not be made in this way.

// nowMost is how many bytes one of these calls moves: what takes a tenth of a millisecond or two.
const nowMost = 1 << 20

// readNow reads into p, which is not empty, what is at off of a file, as far as it is in memory.
func readNow(fd uintptr, p []byte, off int64) (int, unix.Errno) {
	vector := unix.Iovec{Base: &p[0]}
	vector.SetLen(min(len(p), nowMost))
	n, _, errno := unix.RawSyscall6(unix.SYS_PREADV2, fd, uintptr(unsafe.Pointer(&vector)), 1,
		uintptr(off), uintptr(uint64(off)>>32), unix.RWF_NOWAIT)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// sendNow sends of b what fits into a socket's buffer now, and returns how much that was. It makes use of vector.
func sendNow(fd uintptr, b net.Buffers, vector *[]unix.Iovec) int {
	v := (*vector)[:0]
	for left := nowMost; len(b) > 0 && left > 0 && len(v) < maxVector; b = b[1:] {
		if p := b[0][:min(len(b[0]), left)]; len(p) > 0 {
			v = append(v, unix.Iovec{Base: &p[0]})
			v[len(v)-1].SetLen(len(p))
			left -= len(p)
		}
	}
	if len(v) == 0 {
		return 0
	}
	message := unix.Msghdr{Iov: &v[0]}
	message.SetIovlen(len(v))
	n, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&message)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	clear(v) // what was sent is to be free
	*vector = v
	if errno != 0 {
		return 0
	}
	return int(n)
}
