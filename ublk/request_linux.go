//go:build linux && (amd64 || arm64 || loong64 || riscv64)

package ublk

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// prompt says whether the queue's thread had better carry out the request tag itself.
//
// Two other ways were tried for large writes, in an emulated machine. The ring makes them, through the page cache: io_uring hands
// them to threads of its own, and that costs more than the thread's write. And past the page cache, which takes somewhat less
// processor time: but the kernel does not wait for such writes when a process dies, so that one may reach the file
// after the next process has repeated it, and after later writes to the same place. Nor does the thread write past the page cache
// by itself, for which the kernel does wait: what is written to the same place again and again never reaches the disk through the
// cache, and where the disk is slow that counts for more than the copy (0.35 of a loop device's speed instead of 0.46).
func (q *queue) prompt(tag uint16) bool {
	d := q.descs[tag]
	return q.disk.can.prompter != nil && d.opFlags&opMask == opWriteData && d.opFlags&requestFUA == 0 &&
		q.disk.can.prompter.Prompt(int64(d.start)*sector, int64(d.sectors)*sector)
}

// handle carries out the request tag and answers it.
func (q *queue) handle(tag uint16) {
	q.began[tag].Store(max(1, int64(time.Since(q.disk.made))))
	result := q.carryOut(tag)
	q.began[tag].Store(0)
	q.requests.Add(1)
	if result < 0 {
		q.errors.Add(1)
	}
	q.thread.answer(answer{q, tag, result})
}

// carryOut carries out the request tag and returns its result.
func (q *queue) carryOut(tag uint16) int32 {
	d := q.descs[tag]
	op := d.opFlags & opMask
	if op == opFlush {
		if q.disk.can.flusher == nil {
			return 0 // nothing is held back
		}
		return result(q.disk.can.flusher.Flush(q.disk.ctx))
	}
	// The kernel keeps to what it was told. A device is not to find out what happens if it does not.
	if all := uint64(q.disk.info.Size / sector); d.sectors == 0 || d.start > all || uint64(d.sectors) > all-d.start {
		return -int32(syscall.EINVAL)
	}
	off, n := int64(d.start)*sector, int64(d.sectors)*sector
	if op == opReadData || op == opWriteData {
		if n > int64(q.disk.info.MaxIO) {
			return -int32(syscall.EINVAL)
		}
		err := q.disk.transfer(op, q.buffer(tag)[:n], off, d.opFlags&requestFUA != 0)
		if err != nil {
			return result(err)
		}
		return int32(n)
	}
	return result(q.disk.clear(op, off, n, d.opFlags))
}

// transfer reads or writes p.
func (d *Disk) transfer(op uint32, p []byte, off int64, fua bool) error {
	if op == opReadData {
		return d.device.ReadAt(d.ctx, p, off)
	}
	if d.can.writer == nil {
		return errReadOnly
	}
	return d.can.writer.WriteAt(d.ctx, p, off, fua)
}

// clear trims or zeroes n bytes.
func (d *Disk) clear(op uint32, off, n int64, flags uint32) error {
	fua := flags&requestFUA != 0
	switch {
	case op == opDiscard && d.can.trimmer != nil:
		return d.can.trimmer.Trim(d.ctx, off, n, fua)
	case op == opWriteZeroes && d.can.zeroer != nil:
		return d.can.zeroer.WriteZeroes(d.ctx, off, n, flags&requestNoUnmap == 0, false, fua)
	}
	return fmt.Errorf("request of kind %d: %w", op, errors.ErrUnsupported)
}

// errReadOnly is the error of a write to a read-only disk, which the kernel does not let through.
var errReadOnly = fmt.Errorf("the disk is read-only: %w", syscall.EROFS)
