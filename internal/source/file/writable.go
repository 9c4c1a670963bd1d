package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/dnbd/dnbd/block"
)

// Writable is a file or block device that is read and written, with every capability.
type Writable struct {
	*File
	can ways
	// broken is the first failure of a flush.
	broken atomic.Pointer[error]
}

// ways are the ways that a file was found not to have.
type ways struct {
	noForce, noPunch, noZero, noDiscard atomic.Bool
}

// OpenWritable opens the file or block device at path to be read and written. With lock it fails while another process has
// it open with a lock, and says which.
func OpenWritable(path string, lock bool) (*Writable, error) { return openWritable(path, 0, lock) }

// Create opens the file at path as OpenWritable does, with a lock. If there is none it makes one, of size bytes without
// space, that only this user may read. A file that is there must be as long as that.
func Create(path string, size int64) (*Writable, error) {
	d, err := openWritable(path, os.O_CREATE, true)
	if err != nil {
		return nil, err
	}
	if d.size == 0 && !d.device {
		if err := d.f.Truncate(size); err != nil {
			d.Close()
			return nil, err
		}
		d.size = size
	}
	if d.size != size {
		d.Close()
		return nil, fmt.Errorf("open %s: it is %d bytes long, not %d, so it was made for something else; name another file",
			path, d.size, size)
	}
	return d, nil
}

// Temporary returns a file of size bytes without space in dir, or in the system's place for such files if dir is empty.
// It has no name, and is gone when it is closed.
func Temporary(dir string, size int64) (*Writable, error) {
	f, err := os.CreateTemp(dir, "dnbd-*")
	if err != nil {
		return nil, err
	}
	if err := removeOpen(f); err != nil {
		f.Close()
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	d, err := newFile(f, "the temporary file in "+filepath.Dir(f.Name()))
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Writable{File: d}, nil
}

func openWritable(path string, flags int, lock bool) (*Writable, error) {
	d, err := open(path, os.O_RDWR|flags)
	if err != nil {
		return nil, err
	}
	// Some kernels let a device that can only be read be opened to be written, and refuse each write.
	if d.device {
		err = checkWritable(d.f)
	}
	if err == nil && lock {
		err = lockFile(d.f)
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &Writable{File: d}, nil
}

// WriteAt implements block.Writer.
func (d *Writable) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	return d.change(ctx, "write", off, int64(len(p)), func() error { return d.write(p, off, fua) })
}

// Flush implements block.Flusher.
func (d *Writable) Flush(ctx context.Context) error {
	return d.change(ctx, "flush", 0, 0, d.flush)
}

// Trim implements block.Trimmer. It is no error when the file system or device cannot give space back.
func (d *Writable) Trim(ctx context.Context, off, n int64, fua bool) error {
	return d.change(ctx, "trim", off, n, func() error {
		from, to := d.sectors(off, n)
		if from >= to {
			return d.checkOpen()
		}
		err := d.control(func(fd int) error { return d.can.trim(fd, from, to-from, d.device) })
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			return nil
		case err == nil && fua:
			return d.flush()
		}
		return err
	})
}

// WriteZeroes implements block.Zeroer.
func (d *Writable) WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error {
	return d.change(ctx, "zero", off, n, func() error {
		from, to := d.sectors(off, n)
		if from >= to {
			from, to = off, off
		}
		if from < to {
			err := d.control(func(fd int) error { return d.can.zero(fd, from, to-from, hole, fast, d.device) })
			switch {
			case errors.Is(err, errors.ErrUnsupported) && !fast:
				from, to = off, off
			case err != nil:
				return err
			}
		}
		// The parts of sectors at both ends, or all of it.
		if err := d.writeZeroes(ctx, off, from); err != nil {
			return err
		}
		if err := d.writeZeroes(ctx, to, off+n); err != nil {
			return err
		}
		if fua {
			return d.flush()
		}
		return nil
	})
}

// change makes a request that changes the file, or says why not.
func (d *Writable) change(ctx context.Context, verb string, off, n int64, do func() error) error {
	if err := d.check(ctx, verb, off, n); err != nil {
		return err
	}
	err := d.checkPresent(off + n)
	if err == nil {
		err = do()
	}
	return d.failed(verb, off, n, err)
}

// sectors returns the whole sectors within n bytes at off; there are none when from is not below to.
func (d *Writable) sectors(off, n int64) (from, to int64) {
	return (off + d.sector - 1) / d.sector * d.sector, (off + n) / d.sector * d.sector
}

// zeroes is what is written where there is no better way to zeroes.
var zeroes [256 << 10]byte

// writeZeroes writes zeroes from from to to.
func (d *Writable) writeZeroes(ctx context.Context, from, to int64) error {
	for from < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		piece := min(to-from, int64(len(zeroes)))
		if _, err := d.f.WriteAt(zeroes[:piece], from); err != nil {
			return err
		}
		from += piece
	}
	return nil
}

// write writes p at off.
func (d *Writable) write(p []byte, off int64, fua bool) error {
	if fua && !d.can.noForce.Load() {
		err := d.control(func(fd int) error { return d.can.writeForced(fd, p, off) })
		if !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	if _, err := d.f.WriteAt(p, off); err != nil {
		return err
	}
	if fua {
		return d.flush()
	}
	return nil
}

// flush has the kernel put on stable storage what was written.
func (d *Writable) flush() error {
	if err := d.broken.Load(); err != nil {
		return fmt.Errorf("an earlier flush failed, and what was written before it may be lost: %w", *err)
	}
	err := d.control(func(int) error { return syncData(d.f) })
	if err != nil && !errors.Is(err, os.ErrClosed) {
		d.broken.CompareAndSwap(nil, &err)
	}
	return err
}

var (
	_ block.Full       = (*Writable)(nil)
	_ block.Mapper     = (*File)(nil)
	_ block.Prefetcher = (*File)(nil)
)
