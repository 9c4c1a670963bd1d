package nbd

import "time"

// serve does what r asks for and makes its reply. A request that must fail comes with the errno and the reason.
func (t *transmission) serve(r *request, errno uint32, text string) {
	start := time.Now()
	if errno == 0 {
		if err := t.execute(r); err != nil {
			errno, text = errnoOf(err), err.Error()
			if errno == errNotSup && r.flags&cmdFlagFastZero == 0 {
				errno = errIO // ENOTSUP is for those who asked to be quick
			}
		}
	}
	r.quick = time.Since(start) < quickTime+time.Duration(r.length)*quickByte
	t.answer(r, errno, text)
}

// recall serves r if it reads what is in memory.
func (t *transmission) recall(r *request) bool {
	n := int64(r.length)
	if r.command != cmdRead || !t.resident.takes(n) || t.splicer.takes(n) {
		return false
	}
	r.data = t.stock.get(int(n))
	if !t.resident.read(r.data.b, int64(r.offset)) {
		r.data.release()
		r.data = nil
		return false
	}
	r.recalled = true
	t.answer(r, 0, "")
	return true
}

// answer makes the reply to r, which was served, or failed with errno.
func (t *transmission) answer(r *request, errno uint32, text string) {
	t.count.add(r, errno)
	switch {
	case errno != 0:
		r.data.release()
		r.data = nil
		r.fail(t.style, errno, text)
	case r.command == cmdBlockStatus: // has its reply
	case r.command == cmdRead && r.data != nil && t.style != styleSimple && r.flags&cmdFlagDF == 0 && allZero(r.data.b):
		r.data.release()
		r.data = nil
		r.hole(t.style)
	default:
		r.succeed(t.style)
	}
}

// execute does what r asks the device for. A request of nothing succeeds.
func (t *transmission) execute(r *request) error {
	if r.command == cmdFlush {
		if t.can.flusher == nil {
			return nil // nothing was written
		}
		return t.can.flusher.Flush(t.ctx)
	}
	if r.length == 0 {
		return nil
	}
	off, n, fua := int64(r.offset), int64(r.length), r.flags&cmdFlagFUA != 0
	switch r.command {
	case cmdRead:
		if r.pipe = t.splicer.load(off, int(n)); r.pipe != nil {
			return nil
		}
		r.data = t.stock.get(int(n))
		return t.export.Device.ReadAt(t.ctx, r.data.b, off)
	case cmdWrite:
		err := t.can.writer.WriteAt(t.ctx, r.data.b, off, fua)
		r.data.release()
		r.data = nil
		return err
	case cmdTrim:
		return t.can.trimmer.Trim(t.ctx, off, n, fua)
	case cmdWriteZeroes:
		hole, fast := r.flags&cmdFlagNoHole == 0, r.flags&cmdFlagFastZero != 0
		return t.can.zeroer.WriteZeroes(t.ctx, off, n, hole, fast, fua)
	case cmdCache:
		return t.can.prefetcher.Prefetch(t.ctx, off, n)
	case cmdBlockStatus:
		return r.status(t.ctx, t.style, t.size)
	}
	return nil
}
