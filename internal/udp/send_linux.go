package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bulk is what SendSegments needs, kept so that it allocates nothing.
//
// Three ways to send a run of datagrams are tried, the fastest first: one GSO send, one sendmmsg, one sendmsg each. A way
// is given up for good when it fails for a run that the next one then sends, so an error of the datagrams or of the
// network, which fails all ways alike, costs no speed.
type bulk struct {
	mu        sync.Mutex // held for a whole train; guards the rest
	log       *slog.Logger
	gso       bool
	batch     bool
	shortTail bool // this kernel corrupts a GSO run that does not end with a shorter datagram

	to    sockaddr
	toLen uint32
	iovs  [2 * maxSegments]unix.Iovec
	train unix.Msghdr               // for GSO: all of iovs
	each  [maxSegments]unix.Mmsghdr // for the others: two of iovs each
	oob   [unix.SizeofCmsghdr + 8]byte

	// What the runtime calls when there may be room; first and n are the part of the run that is still to be sent.
	sendTrain, sendBatch, sendOne func(fd uintptr) bool
	first, n                      int
	err                           error
}

func (b *bulk) init(o Options) {
	b.log = o.Log
	b.gso, b.batch = !o.NoGSO, true
	b.shortTail = corruptsEqualTrains()
	hdr := (*unix.Cmsghdr)(unsafe.Pointer(&b.oob))
	hdr.Level, hdr.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	hdr.SetLen(unix.CmsgLen(2))
	b.train = unix.Msghdr{Name: b.to.pointer(), Iov: &b.iovs[0], Control: &b.oob[0]}
	b.train.SetControllen(unix.CmsgSpace(2))
	for i := range b.each {
		b.each[i].Hdr = unix.Msghdr{Name: b.to.pointer(), Iov: &b.iovs[2*i]}
		b.each[i].Hdr.SetIovlen(2)
	}
	b.sendTrain, b.sendBatch, b.sendOne = b.trySendTrain, b.trySendBatch, b.trySendOne
}

// SendSegments sends the datagrams of s to one address, in order, waiting while the write buffer is full: that is the
// backpressure of a link slower than its sender. Close ends the wait. After an error, a head of the train may have been
// sent. A datagram that exceeds the interface's MTU fails with EMSGSIZE. It allocates nothing when it succeeds.
//
// A Conn whose write buffer SendSegments keeps full has no room for Send: use one of them for bulk and another for control.
func (c *Conn) SendSegments(to netip.AddrPort, s *Segments) error {
	zone, err := c.zoneIndex(to.Addr())
	if err != nil {
		return fmt.Errorf("send to %v: %w", to, err)
	}
	b := &c.bulk
	b.mu.Lock()
	defer b.mu.Unlock()
	b.toLen = b.to.set(to, zone)
	for rest := s.datagrams; len(rest) > 0; {
		n, err := c.sendRun(rest)
		if err != nil {
			return c.sendError(to, rest[0].size(), err)
		}
		rest = rest[n:]
	}
	return nil
}

// sendRun sends some datagrams at the head of ds and returns how many.
func (c *Conn) sendRun(ds []datagram) (int, error) {
	b := &c.bulk
	n, short := run(ds)
	gso := b.gso && n > 1 && (short || !b.shortTail)
	if !b.gso {
		n = min(len(ds), maxSegments)
	}
	b.load(ds[:n])
	defer clear(b.iovs[:2*n]) // do not keep the payloads alive

	var gsoErr error
	if gso {
		if gsoErr = c.transmit(b.sendTrain); gsoErr == nil || !refuses(gsoErr) {
			return n, gsoErr
		}
	}
	if err := c.sendEach(n); err != nil {
		return 0, err
	}
	if gsoErr != nil {
		b.gso = false
		b.log.Info("no segmentation offload (GSO), each datagram is a packet of its own", "addr", c.local, "err", gsoErr)
	}
	return n, nil
}

// sendEach sends the n datagrams that are loaded without GSO.
func (c *Conn) sendEach(n int) error {
	b := &c.bulk
	b.first, b.n = 0, n
	var batchErr error
	if b.batch && n > 1 {
		if batchErr = c.transmit(b.sendBatch); batchErr == nil || !refuses(batchErr) {
			return batchErr
		}
	}
	if err := c.transmit(b.sendOne); err != nil {
		return err
	}
	if batchErr != nil {
		b.batch = false
		b.log.Info("no batched sending (sendmmsg)", "addr", c.local, "err", batchErr)
	}
	return nil
}

// load points the headers at ds.
func (b *bulk) load(ds []datagram) {
	for i, d := range ds {
		b.iovs[2*i].Base = unsafe.SliceData(d.header)
		b.iovs[2*i].SetLen(len(d.header))
		b.iovs[2*i+1].Base = unsafe.SliceData(d.payload)
		b.iovs[2*i+1].SetLen(len(d.payload))
		b.each[i].Hdr.Namelen = b.toLen
	}
	b.train.Namelen = b.toLen
	b.train.SetIovlen(2 * len(ds))
	binary.NativeEndian.PutUint16(b.oob[unix.CmsgLen(0):], uint16(ds[0].size()))
}

// transmit lets the runtime call try until it is done, waiting for room in between.
func (c *Conn) transmit(try func(fd uintptr) bool) error {
	if err := c.raw.Write(try); err != nil {
		return err
	}
	return c.bulk.err
}

func (b *bulk) trySendTrain(fd uintptr) (done bool) {
	_, b.err = sendmsg(fd, &b.train)
	return b.err != unix.EAGAIN
}

func (b *bulk) trySendBatch(fd uintptr) (done bool) {
	for b.first < b.n {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd,
			uintptr(unsafe.Pointer(&b.each[b.first])), uintptr(b.n-b.first), 0, 0, 0)
		switch errno {
		case 0:
			b.first += int(n)
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			b.err = errno
			return true
		}
	}
	b.err = nil
	return true
}

func (b *bulk) trySendOne(fd uintptr) (done bool) {
	for ; b.first < b.n; b.first++ {
		if _, b.err = sendmsg(fd, &b.each[b.first].Hdr); b.err != nil {
			return b.err != unix.EAGAIN
		}
	}
	b.err = nil
	return true
}

// sendmsg sends what hdr says.
func sendmsg(fd uintptr, hdr *unix.Msghdr) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(hdr)), 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, unix.EAGAIN // a constant: converting errno would allocate
		default:
			return 0, errno
		}
	}
}

// refuses reports whether err may come from the way of sending rather than from the datagrams. GSO gives EIO where the
// device cannot compute checksums, EINVAL and EMSGSIZE for sizes, the rest where the kernel or a sandbox lacks the call.
func refuses(err error) bool {
	for _, e := range []unix.Errno{unix.EIO, unix.EINVAL, unix.EMSGSIZE, unix.EOPNOTSUPP, unix.ENOPROTOOPT, unix.ENOSYS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// sendError says what failed; size is that of the first datagram that was not sent.
func (c *Conn) sendError(to netip.AddrPort, size int, err error) error {
	if errors.Is(err, unix.EMSGSIZE) {
		i := c.ifaces[0]
		return fmt.Errorf("send %d bytes to %v: %w: at most %d fit the interface MTU of %d on %s",
			size, to, err, i.payload(), i.MTU, i.Name)
	}
	return fmt.Errorf("send to %v: %w", to, err)
}

// control is what Send needs. It is apart from bulk so that a train that waits for room holds up no control message.
type control struct {
	mu  sync.Mutex // guards the rest
	try func(fd uintptr)
	hdr unix.Msghdr
	iov unix.Iovec
	to  sockaddr
	err error
}

func (s *control) init() {
	s.hdr.Name, s.hdr.Iov = s.to.pointer(), &s.iov
	s.hdr.SetIovlen(1)
	s.try = func(fd uintptr) { _, s.err = sendmsg(fd, &s.hdr) }
}

// Send sends one datagram and never waits: when the write buffer is full the error wraps ErrFull and nothing was sent.
func (c *Conn) Send(to netip.AddrPort, p []byte) error {
	zone, err := c.zoneIndex(to.Addr())
	if err != nil {
		return fmt.Errorf("send to %v: %w", to, err)
	}
	s := &c.control
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hdr.Namelen = s.to.set(to, zone)
	s.iov.Base = unsafe.SliceData(p)
	s.iov.SetLen(len(p))
	// Not raw.Write: that waits for a train that waits for room.
	err = c.raw.Control(s.try)
	s.iov.Base = nil
	if err == nil {
		err = s.err
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
		return fmt.Errorf("send to %v: %w", to, ErrFull)
	}
	return c.sendError(to, len(p), err)
}
