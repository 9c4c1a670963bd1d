//go:build linux && (amd64 || arm64 || loong64 || riscv64)

package ublk

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// queue is one of a disk's queues of requests. Each request has a tag below the queue's depth, and with it a descriptor and a
// buffer.
//
// The kernel copies between a request and its buffer when the queue's thread fetches a write and when it commits a read. The other
// way there is (UBLK_F_USER_COPY), in which whoever handles a request copies, costs one more system call for each; and in Linux
// 6.12 a request that is being copied while its process dies is not carried out again, but fails.
type queue struct {
	disk    *Disk
	thread  *thread
	id      uint16
	descs   []descriptor // mapped, for reading
	mapping []byte       // of descs
	buffers []byte       // mapped; MaxIO for each tag

	// What Stats tells: when each request that is under way began, in nanoseconds since the disk was made, and 0 for others; and
	// how many were answered.
	began            []atomic.Int64
	requests, errors atomic.Uint64
}

// newQueue makes the queue id of d.
func newQueue(d *Disk, id int) (*queue, error) {
	q := &queue{disk: d, id: uint16(id), began: make([]atomic.Int64, d.info.Depth)}
	var err error
	// Outside of Go's heap, so that what is not used takes no memory.
	q.buffers, err = unix.Mmap(-1, 0, d.info.Depth*d.info.MaxIO, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map the buffers of queue %d: %w", id, err)
	}
	return q, nil
}

// mapDescriptors maps the descriptors, from d's char device.
func (q *queue) mapDescriptors() (err error) {
	page := os.Getpagesize()
	size := (q.disk.info.Depth*descSize + page - 1) / page * page
	step := (maxDescBytes + page - 1) / page * page
	q.mapping, err = unix.Mmap(int(q.disk.char.Fd()), int64(q.id)*int64(step), size, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map the descriptors of queue %d: %w", q.id, err)
	}
	q.descs = unsafe.Slice((*descriptor)(unsafe.Pointer(&q.mapping[0])), q.disk.info.Depth)
	return nil
}

// release gives back what the queue has. No thread and no request uses it any more.
func (q *queue) release() error {
	var errs []error
	for _, b := range [][]byte{q.mapping, q.buffers} {
		if b != nil {
			errs = append(errs, unix.Munmap(b))
		}
	}
	return errors.Join(errs...)
}

// buffer is that of the request tag.
func (q *queue) buffer(tag uint16) []byte {
	n := q.disk.info.MaxIO
	return q.buffers[int(tag)*n : (int(tag)+1)*n]
}
