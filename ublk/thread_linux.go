//go:build linux && (amd64 || arm64 || loong64 || riscv64)

package ublk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/ublk/internal/uring"
)

// thread serves queues. The kernel talks about a queue to one thread only, which so does nothing else: it fetches requests, starts
// a goroutine for each that may take its time, and commits what was answered.
type thread struct {
	disk   *Disk
	queues []*queue
	wake   int // an eventfd
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
	queue  *queue
	tag    uint16
	result int32 // number of bytes, or a negative errno
}

// wakeData marks the completion of a read of wake; those of requests are marked with the place of their queue among the thread's,
// and with their tag, in the lower tagBits.
const (
	wakeData = 1 << 32
	tagBits  = 16
	tagMask  = 1<<tagBits - 1
)

// newThread makes a thread for queues of d.
func newThread(d *Disk, queues []*queue) (*thread, error) {
	t := &thread{disk: d, queues: queues, woken: make([]byte, 8)}
	var err error
	if t.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	for _, q := range queues {
		q.thread = t
	}
	return t, nil
}

// serve is the thread. It sends nil to ready when the kernel has its offer to take requests, or an error; with mapped, the queues
// have their descriptors. It returns when the disk is stopped, or it has to quit, and the last request has ended. It must be a
// goroutine of its own.
func (t *thread) serve(ready chan<- error, mapped <-chan struct{}) error {
	// Never unlocked: the thread ends with the goroutine, and with the thread all that the kernel has to do with it.
	runtime.LockOSThread()
	depth := t.disk.info.Depth
	ring, err := uring.New(len(t.queues)*depth+1, uring.SingleIssuer|uring.DeferTaskrun)
	if err != nil {
		ready <- err
		return err
	}
	defer ring.Close()
	for i, q := range t.queues {
		for tag := range depth {
			err = errors.Join(err, t.command(ring, cmdFetch, i, answer{queue: q, tag: uint16(tag)}))
		}
	}
	// All of it in one system call: a process is not killed in between.
	if err := errors.Join(err, ring.Read(t.wake, t.woken, 0, wakeData), ring.Enter(0)); err != nil {
		ready <- err
		return err
	}
	ready <- nil
	<-mapped

	var requests sync.WaitGroup
	defer requests.Wait()
	var answered []answer
	for fetching := len(t.queues) * depth; fetching > 0; {
		var quit bool
		if answered, quit = t.take(answered); quit {
			return nil
		}
		for _, a := range answered {
			if err := t.command(ring, cmdCommitAndFetch, int(a.queue.id-t.queues[0].id), a); err != nil {
				return err
			}
		}
		if err := ring.Enter(1); err != nil {
			return err
		}
		t.awake()
		started := false
		for c, ok := ring.Next(); ok; c, ok = ring.Next() {
			switch {
			case c.Data == wakeData:
				err = ring.Read(t.wake, t.woken, 0, wakeData)
			case c.Result == 0:
				q, tag := t.queues[c.Data>>tagBits], uint16(c.Data&tagMask)
				if q.prompt(tag) {
					q.handle(tag)
					break
				}
				started = true
				requests.Go(func() { q.handle(tag) })
			default:
				fetching--
				if c.Result != resultAborted {
					err = fmt.Errorf("fetch request %d: %w", c.Data, unix.Errno(-c.Result))
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

// command adds a command to fetch a request of the queue at place i, and perhaps to commit the one before it.
func (t *thread) command(ring *uring.Ring, op uint32, i int, a answer) error {
	c := ioCommand{
		queue: a.queue.id, tag: a.tag, result: a.result,
		address: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(a.queue.buffer(a.tag))))),
	}
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&c)), unsafe.Sizeof(c))
	return ring.Command(int(t.disk.char.Fd()), op, raw, uint64(i)<<tagBits|uint64(a.tag))
}

// take returns what was answered, and keeps the slice spare for what will be. From now on the thread has to be woken.
func (t *thread) take(spare []answer) (answered []answer, quit bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	answered = t.answered
	t.answered = spare[:0]
	t.asleep = true
	return answered, t.quitting
}

// awake says that the thread needs no waking.
func (t *thread) awake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asleep = false
}

// answer hands the result of a request to the thread.
func (t *thread) answer(a answer) {
	t.mu.Lock()
	t.answered = append(t.answered, a)
	t.wakeLocked()
	t.mu.Unlock()
}

// quit ends the thread, and leaves the disk as it is.
func (t *thread) quit() {
	t.mu.Lock()
	t.quitting = true
	t.wakeLocked()
	t.mu.Unlock()
}

// one is what is written to an eventfd.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// wakeLocked wakes the thread if it sleeps or is about to. The caller holds mu.
func (t *thread) wakeLocked() {
	if t.asleep {
		t.asleep = false
		// It cannot fail: the counter is read before it overflows.
		_, _ = unix.Write(t.wake, one)
	}
}

// release gives back what the thread has, which has ended.
func (t *thread) release() error { return unix.Close(t.wake) }
