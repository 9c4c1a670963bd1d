//go:build linux

// Package uring is the little of io_uring(7) that drivers of Linux are spoken to with: commands to files that have them, and
// reads.
package uring

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of New, include/uapi/linux/io_uring.h.
const (
	// SQE128 makes entries of 128 bytes, whose commands have room for 80.
	SQE128 = 1 << 10
	// SingleIssuer promises that only the thread that called New uses the ring.
	SingleIssuer = 1 << 12
	// DeferTaskrun leaves completions to that thread until it calls Enter. It needs SingleIssuer.
	DeferTaskrun = 1 << 13
)

// The rest of the ABI, from the same file.
const (
	opRead     = 22
	opUringCmd = 46

	enterGetEvents = 1 << 0

	offSQRing = 0
	offCQRing = 0x8000000
	offSQEs   = 0x10000000

	sqeSize = 64
	cqeSize = 16
	// commandOffset is where in an entry the bytes of a command begin.
	commandOffset = 48
)

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sq                                                                     struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		_                                                           uint64
	}
	cq struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		_                                                           uint64
	}
}

// Ring is an io_uring. One goroutine at a time may use it.
type Ring struct {
	fd     int
	sq, cq []byte // mapped
	sqes   []byte // mapped

	sqeSize          uint32
	sqMask, cqMask   uint32
	sqHead, sqTail   *uint32
	cqHead, cqTail   *uint32
	sqArray          []uint32
	cqes             unsafe.Pointer
	tail, sent, head uint32 // of the submission queue: filled in, given to the kernel; of the completion queue
}

// Completion is what became of an entry.
type Completion struct {
	Data   uint64 // what the entry was made with
	Result int32  // or a negative errno
}

// New makes a ring with room for entries.
func New(entries int, flags uint32) (_ *Ring, err error) {
	p := params{flags: flags}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("set up an io_uring: %w", errno)
	}
	r := &Ring{fd: int(fd), sqeSize: sqeSize}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if flags&SQE128 != 0 {
		r.sqeSize *= 2
	}
	if r.sq, err = r.mmap(offSQRing, p.sq.array+p.sqEntries*4); err != nil {
		return nil, err
	}
	if r.cq, err = r.mmap(offCQRing, p.cq.cqes+p.cqEntries*cqeSize); err != nil {
		return nil, err
	}
	if r.sqes, err = r.mmap(offSQEs, p.sqEntries*r.sqeSize); err != nil {
		return nil, err
	}
	r.sqHead, r.sqTail, r.sqMask = word(r.sq, p.sq.head), word(r.sq, p.sq.tail), *word(r.sq, p.sq.ringMask)
	r.cqHead, r.cqTail, r.cqMask = word(r.cq, p.cq.head), word(r.cq, p.cq.tail), *word(r.cq, p.cq.ringMask)
	r.sqArray = unsafe.Slice(word(r.sq, p.sq.array), p.sqEntries)
	for i := range r.sqArray {
		r.sqArray[i] = uint32(i)
	}
	r.cqes = unsafe.Pointer(&r.cq[p.cq.cqes])
	return r, nil
}

func (r *Ring) mmap(off int64, size uint32) ([]byte, error) {
	b, err := unix.Mmap(r.fd, off, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map an io_uring: %w", err)
	}
	return b, nil
}

// word is the number at off in b.
func word(b []byte, off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&b[off])) }

// ErrFull says that entries are to be given to the kernel first, with Enter.
var ErrFull = errors.New("the io_uring is full")

// entry adds an entry and returns its bytes, all zero.
func (r *Ring) entry(op uint8, fd int, data uint64) ([]byte, error) {
	if r.tail-atomic.LoadUint32(r.sqHead) > r.sqMask {
		return nil, ErrFull
	}
	i := (r.tail & r.sqMask) * r.sqeSize
	e := r.sqes[i : i+r.sqeSize : i+r.sqeSize]
	clear(e)
	r.tail++
	e[0] = op
	*(*int32)(unsafe.Pointer(&e[4])) = int32(fd)
	*(*uint64)(unsafe.Pointer(&e[32])) = data
	return e, nil
}

// Command adds a command to the driver of fd: op and the bytes of command, of which 16 fit, or 80 with SQE128.
func (r *Ring) Command(fd int, op uint32, command []byte, data uint64) error {
	e, err := r.entry(opUringCmd, fd, data)
	if err != nil {
		return err
	}
	*(*uint32)(unsafe.Pointer(&e[8])) = op
	copy(e[commandOffset:], command)
	return nil
}

// Read adds a read from fd at off to p, which must not be on a stack and stay where it is until the read completes.
func (r *Ring) Read(fd int, p []byte, off int64, data uint64) error {
	e, err := r.entry(opRead, fd, data)
	if err != nil {
		return err
	}
	*(*int64)(unsafe.Pointer(&e[8])) = off
	*(*uint64)(unsafe.Pointer(&e[16])) = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p))))
	*(*uint32)(unsafe.Pointer(&e[24])) = uint32(len(p))
	return nil
}

// Enter gives what was added to the kernel, and waits until at least wait completions are there, or a signal comes.
func (r *Ring) Enter(wait int) error {
	atomic.StoreUint32(r.sqTail, r.tail)
	for {
		n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.tail-r.sent), uintptr(wait), enterGetEvents, 0, 0)
		switch errno {
		case 0:
			r.sent += uint32(n)
			if r.sent == r.tail {
				return nil
			}
		case unix.EINTR:
			// What was given is known by what the kernel has taken.
			r.sent = atomic.LoadUint32(r.sqHead)
		default:
			return os.NewSyscallError("io_uring_enter", errno)
		}
	}
}

// Next takes a completion that is there, if there is one.
func (r *Ring) Next() (c Completion, ok bool) {
	if r.head == atomic.LoadUint32(r.cqTail) {
		return Completion{}, false
	}
	e := unsafe.Add(r.cqes, uintptr(r.head&r.cqMask)*cqeSize)
	c = Completion{Data: *(*uint64)(e), Result: *(*int32)(unsafe.Add(e, 8))}
	r.head++
	atomic.StoreUint32(r.cqHead, r.head)
	return c, true
}

// Close releases the ring. What is under way is cancelled, which may take a moment longer than Close.
func (r *Ring) Close() error {
	var errs []error
	for _, b := range [][]byte{r.sqes, r.cq, r.sq} {
		if b != nil {
			errs = append(errs, unix.Munmap(b))
		}
	}
	return errors.Join(append(errs, unix.Close(r.fd))...)
}
