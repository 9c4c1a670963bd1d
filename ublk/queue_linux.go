//go:build linux && (amd64 || arm64 || loong64 || riscv64)

package ublk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/ublk/internal/uring"
)

// queue is one of a disk's queues of requests. Each request has a tag below the queue's depth, and with it a descriptor and a
// buffer.
//
// The kernel talks about a queue to one thread only, which so does nothing else: it fetches requests, starts a goroutine for
// each, and commits what they have answered.
//
// The kernel copies between a request and its buffer when the thread fetches a write and when it commits a read. The other way
// there is (UBLK_F_USER_COPY), in which whoever handles a request copies, costs one more system call for each; and in Linux
// 6.12 a request that is being copied while its process dies is not carried out again, but fails.
type queue struct {
	disk    *Disk
	id      uint16
	descs   []descriptor // mapped, for reading
	mapping []byte       // of descs
	buffers []byte       // mapped; MaxIO for each tag

	// What Stats tells: when each request that is under way began, in nanoseconds since the disk was made, and 0 for others; and
	// how many were answered.
	began            []atomic.Int64
	requests, errors atomic.Uint64

	wake int // an eventfd
	// woken is where the thread reads wake to.
	woken []byte

	mu sync.Mutex
	// answered are the requests that the thread has not committed yet.
	answered []answer
	// asleep: whoever has something for the thread has to wake it.
	asleep bool
	// quitting: the thread is to end, and to leave the disk as it is.
	quitting bool
}

// answer is the result of a request.
type answer struct {
	tag    uint16
	result int32 // number of bytes, or a negative errno
}

// wakeData marks the completion of a read of wake; those of requests are marked with their tags.
const wakeData = 1 << 32

// newQueue makes the queue id of d, whose char device is open.
func newQueue(d *Disk, id int) (_ *queue, err error) {
	q := &queue{disk: d, id: uint16(id), wake: -1, woken: make([]byte, 8), began: make([]atomic.Int64, d.info.Depth)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("set up queue %d: %w", id, err), q.release())
		}
	}()
	page := os.Getpagesize()
	size := (d.info.Depth*descSize + page - 1) / page * page
	step := (maxDescBytes + page - 1) / page * page
	q.mapping, err = unix.Mmap(int(d.char.Fd()), int64(id*step), size, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map its descriptors: %w", err)
	}
	q.descs = unsafe.Slice((*descriptor)(unsafe.Pointer(&q.mapping[0])), d.info.Depth)
	// Outside of Go's heap, so that what is not used takes no memory.
	q.buffers, err = unix.Mmap(-1, 0, d.info.Depth*d.info.MaxIO, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map its buffers: %w", err)
	}
	if q.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	return q, nil
}

// release gives back what newQueue has taken. No thread and no request uses it any more.
func (q *queue) release() error {
	var errs []error
	for _, b := range [][]byte{q.mapping, q.buffers} {
		if b != nil {
			errs = append(errs, unix.Munmap(b))
		}
	}
	if q.wake >= 0 {
		errs = append(errs, unix.Close(q.wake))
	}
	return errors.Join(errs...)
}

// serve is the queue's thread. It sends nil to ready when the kernel has its offer to take requests, or an error, and returns
// when the disk is stopped, or it has to quit, and the last request has ended. It must be a goroutine of its own.
func (q *queue) serve(ready chan<- error) error {
	// Never unlocked: the thread ends with the goroutine, and with the thread all that the kernel has to do with it.
	runtime.LockOSThread()
	depth := q.disk.info.Depth
	ring, err := uring.New(depth+1, uring.SingleIssuer|uring.DeferTaskrun)
	if err != nil {
		ready <- err
		return err
	}
	defer ring.Close()
	for tag := range depth {
		err = errors.Join(err, q.command(ring, cmdFetch, answer{tag: uint16(tag)}))
	}
	if err := errors.Join(err, ring.Read(q.wake, q.woken, 0, wakeData), ring.Enter(0)); err != nil {
		ready <- err
		return err
	}
	ready <- nil

	var requests sync.WaitGroup
	defer requests.Wait()
	var answered []answer
	for fetching := depth; fetching > 0; {
		var quit bool
		if answered, quit = q.take(answered); quit {
			return nil
		}
		for _, a := range answered {
			if err := q.command(ring, cmdCommitAndFetch, a); err != nil {
				return err
			}
		}
		if err := ring.Enter(1); err != nil {
			return err
		}
		q.awake()
		started := false
		for c, ok := ring.Next(); ok; c, ok = ring.Next() {
			switch {
			case c.Data == wakeData:
				err = ring.Read(q.wake, q.woken, 0, wakeData)
			case c.Result == 0:
				started = true
				requests.Go(func() { q.handle(uint16(c.Data)) })
			default:
				fetching--
				if c.Result != resultAborted {
					err = fmt.Errorf("fetch request %d of queue %d: %w", c.Data, q.id, unix.Errno(-c.Result))
				}
			}
			if err != nil {
				return err
			}
		}
		if started {
			// Requests that need nothing but the processor are answered before the thread sleeps: all of them are committed at
			// once, and none has to wake it. That doubled the random reads of 4 KiB from memory.
			runtime.Gosched()
		}
	}
	return nil
}

// command adds a command to fetch a request, and perhaps to commit the one before it.
func (q *queue) command(ring *uring.Ring, op uint32, a answer) error {
	c := ioCommand{
		queue: q.id, tag: a.tag, result: a.result, address: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(q.buffer(a.tag))))),
	}
	return ring.Command(int(q.disk.char.Fd()), op, unsafe.Slice((*byte)(unsafe.Pointer(&c)), unsafe.Sizeof(c)), uint64(a.tag))
}

// buffer is that of the request tag.
func (q *queue) buffer(tag uint16) []byte {
	n := q.disk.info.MaxIO
	return q.buffers[int(tag)*n : (int(tag)+1)*n]
}

// take returns what was answered, and keeps the slice spare for what will be. From now on the thread has to be woken.
func (q *queue) take(spare []answer) (answered []answer, quit bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	answered = q.answered
	q.answered = spare[:0]
	q.asleep = true
	return answered, q.quitting
}

// awake says that the thread needs no waking.
func (q *queue) awake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asleep = false
}

// one is what is written to an eventfd.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// answer hands the result of a request to the thread.
func (q *queue) answer(a answer) {
	q.mu.Lock()
	q.answered = append(q.answered, a)
	q.wakeLocked()
	q.mu.Unlock()
}

// quit ends the thread, and leaves the disk as it is.
func (q *queue) quit() {
	q.mu.Lock()
	q.quitting = true
	q.wakeLocked()
	q.mu.Unlock()
}

// wakeLocked wakes the thread if it sleeps or is about to. The caller holds mu.
func (q *queue) wakeLocked() {
	if q.asleep {
		q.asleep = false
		// It cannot fail: the counter is read before it overflows.
		_, _ = unix.Write(q.wake, one)
	}
}
