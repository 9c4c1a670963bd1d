package file

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// sectorSize returns the unit of requests to a block device that say more than read and write: its logical block.
func sectorSize(f *os.File) (int64, error) {
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err == nil && n <= 0 {
		err = fmt.Errorf("its sectors are of %d bytes", n)
	}
	return int64(n), err
}

// checkWritable returns an error if a block device can only be read.
func checkWritable(f *os.File) error {
	switch readOnly, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET); {
	case err != nil:
		return fmt.Errorf("ask whether it can be written to: %w", err)
	case readOnly != 0:
		return fmt.Errorf("the device can only be read: %w; export it read-only, or through a copy-on-write layer", unix.EROFS)
	}
	return nil
}

// willNeed starts to read ahead.
func willNeed(fd int, off, n int64) error {
	return again(func() error { return unix.Fadvise(fd, off, n, unix.FADV_WILLNEED) })
}

// extent returns what is at off of a file of size bytes, and where the next extent begins.
func extent(fd int, off, size int64) (data bool, next int64, err error) {
	at, err := unix.Seek(fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // no data any more
		return false, size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP): // no map: a block device
		return true, size, nil
	case err != nil:
		return false, 0, err
	case at > off:
		return false, min(at, size), nil
	}
	at, err = unix.Seek(fd, off, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // it was punched or cut off meanwhile
		return true, size, nil
	}
	// A hole that came into being just here is left for another time.
	return true, max(min(at, size), off+1), err
}

// trim gives space back. It returns errors.ErrUnsupported where that cannot be done.
func (w *ways) trim(fd int, off, n int64, device bool) error {
	if device {
		return attempt(&w.noDiscard, func() error { return discard(fd, off, n) })
	}
	return w.punch(fd, off, n)
}

// zero makes a range read as zero without writing zeroes, on a block device one of whole sectors. It returns
// errors.ErrUnsupported where that cannot be done.
//
// fallocate(2) serves block devices as well since Linux 4.9. There FALLOC_FL_PUNCH_HOLE never writes zeroes, and
// FALLOC_FL_ZERO_RANGE (what BLKZEROOUT does) may write them in the kernel, which is not fast.
func (w *ways) zero(fd int, off, n int64, hole, fast, device bool) error {
	if hole {
		if err := w.punch(fd, off, n); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	if device && fast {
		return errors.ErrUnsupported
	}
	err := attempt(&w.noZero, func() error {
		return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if hole || device || !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	// tmpfs has no ZERO_RANGE. A hole that is filled again keeps its space too.
	if err := w.punch(fd, off, n); err != nil {
		return err
	}
	return again(func() error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, off, n) })
}

// punch makes a hole, which reads as zero.
func (w *ways) punch(fd int, off, n int64) error {
	return attempt(&w.noPunch, func() error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

// writeForced writes p to stable storage, past no cache but the page cache. It returns errors.ErrUnsupported where that
// cannot be done in one call.
func (w *ways) writeForced(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		var n int
		err := attempt(&w.noForce, func() (err error) {
			n, err = unix.Pwritev2(fd, [][]byte{p}, off, unix.RWF_DSYNC)
			return err
		})
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// syncData puts the file's contents on stable storage.
func syncData(f *os.File) error {
	return again(func() error { return unix.Fdatasync(int(f.Fd())) })
}

// discard tells a block device that a range of whole sectors is not needed.
func discard(fd int, off, n int64) error {
	return ioctlRange(fd, unix.BLKDISCARD, off, n)
}

// attempt calls f unless no says that it is in vain, and remembers when it was. What the kernel and the file systems answer
// for that is all errors.ErrUnsupported.
func attempt(no *atomic.Bool, f func() error) error {
	if no.Load() {
		return errors.ErrUnsupported
	}
	err := again(f)
	for _, unable := range []error{unix.EOPNOTSUPP, unix.ENOSYS, unix.ENODEV, unix.ENOTTY} {
		if errors.Is(err, unable) {
			no.Store(true)
			return errors.ErrUnsupported
		}
	}
	return err
}

// again calls f until no signal interrupts it.
func again(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
