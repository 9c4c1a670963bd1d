// Package file makes a block.Device of a file or block device of this machine.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/dnbd/dnbd/block"
)

// Design
//
// The size is the file's when it is opened, and stays so. A write never makes a file longer; what is appended behind our
// back is not seen. A file that someone makes shorter is damage that has to be told: every request for a part that is gone
// fails with EIO, a write as well, since it would make the file grow again with a hole before it. That costs a look at the
// length before each write (a twentieth of a write of 4 KiB), and cannot be exact: who truncates a file in the moment of a
// write wins.
//
// Reads and writes go through the page cache. A call that the kernel has begun is not ended by its context, only what has
// not begun: Linux has no way to end the read of a file.
//
// A flush that fails is told to everyone from then on. The kernel tells a failed write-back once only and then drops the
// pages, so that a second flush would say that all is well.
//
// What a file system or device cannot do (holes, zeroes, forced writes) is tried once, remembered for that file, and done in
// the next best way.

// prefetchPiece is how many bytes the kernel is asked to read ahead at once: what it takes whatever the disk. Of a longer
// request it reads the beginning and forgets the rest.
const prefetchPiece = 128 << 10

// File is a file or block device that is only read. It is a block.Prefetcher and, where the system knows of holes, a
// truthful block.Mapper; elsewhere all of it is data.
type File struct {
	f    *os.File
	path string
	size int64
	// device says that it is a block device, whose size cannot change and whose requests are in sectors of sector bytes.
	device bool
	sector int64
}

// ErrInUse: another process has locked the file.
var ErrInUse = errors.New("in use")

// Open opens the file or block device at path to be read.
func Open(path string) (*File, error) { return open(path, os.O_RDONLY) }

// open opens path with the flags of os.OpenFile. The errors say what the user can do.
func open(path string, flags int) (*File, error) {
	// Asked before opening, which would wait for the other end of a named pipe.
	switch fi, err := os.Stat(path); {
	case err != nil && (flags&os.O_CREATE == 0 || !errors.Is(err, fs.ErrNotExist)):
		return nil, cannotOpen(err, flags)
	case err == nil && fi.IsDir():
		return nil, fmt.Errorf("open %s: it is a directory; name a file or a block device", path)
	case err == nil && !fi.Mode().IsRegular() && !isBlockDevice(fi.Mode()):
		return nil, fmt.Errorf("open %s: it is neither a file nor a block device", path)
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, cannotOpen(err, flags)
	}
	d, err := newFile(f, path)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return d, nil
}

// newFile returns the device that f is, which it owns if the error is nil.
func newFile(f *os.File, path string) (*File, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	d := &File{f: f, path: path, size: fi.Size(), device: isBlockDevice(fi.Mode()), sector: 1}
	if d.device {
		// A device has no size in its inode; its end is where a seek to the end arrives. Requests name their offset, so that
		// nobody minds where the file stands.
		if d.size, err = f.Seek(0, io.SeekEnd); err == nil {
			d.sector, err = sectorSize(f)
		}
	}
	return d, err
}

// cannotOpen adds the way out to an error of the file system, which names the path.
func cannotOpen(err error, flags int) error {
	write := flags&os.O_RDWR != 0
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; check the path", err)
	case write && errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w; export it read-only, or through a copy-on-write layer", err)
	case write && errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; it is to be written to: make it writable for this user, or export it read-only", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; make it readable for this user, or run as one who may read it", err)
	}
	return err
}

func isBlockDevice(m fs.FileMode) bool {
	return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0
}

// Size implements block.Device.
func (d *File) Size() int64 { return d.size }

// Backing implements nbd.Backed: where the bytes are. What reads it meets no check of this device: beyond the end of a file
// that was made shorter there is nothing.
func (d *File) Backing() *os.File { return d.f }

// Close implements block.Device.
func (d *File) Close() error {
	if err := d.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// ReadAt implements block.Device.
func (d *File) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.check(ctx, "read", off, int64(len(p))); err != nil {
		return err
	}
	if _, err := d.f.ReadAt(p, off); err != nil {
		if errors.Is(err, io.EOF) {
			err = d.gone()
		}
		return d.failed("read", off, int64(len(p)), err)
	}
	return nil
}

// Prefetch implements block.Prefetcher: the kernel starts to read.
func (d *File) Prefetch(ctx context.Context, off, n int64) error {
	if err := d.check(ctx, "prefetch", off, n); err != nil {
		return err
	}
	for end := off + n; off < end; {
		if err := ctx.Err(); err != nil {
			return d.failed("prefetch", off, end-off, err)
		}
		piece := min(end-off, prefetchPiece)
		if err := d.control(func(fd int) error { return willNeed(fd, off, piece) }); err != nil {
			return d.failed("prefetch", off, piece, err)
		}
		off += piece
	}
	return nil
}

// Extents implements block.Mapper.
func (d *File) Extents(ctx context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error {
	if err := d.check(ctx, "map", off, n); err != nil {
		return err
	}
	// Behind its end a shortened file would seem to be a hole, and a copy would have zeroes there without a word.
	if err := d.checkPresent(off + n); err != nil {
		return d.failed("map", off, n, err)
	}
	for end := off + n; off < end; {
		if err := ctx.Err(); err != nil {
			return d.failed("map", off, end-off, err)
		}
		var data bool
		var next int64
		err := d.control(func(fd int) (err error) {
			data, next, err = extent(fd, off, d.size)
			return err
		})
		if err != nil {
			return d.failed("map", off, end-off, err)
		}
		if !yield(next-off, !data, !data) {
			break
		}
		off = next
	}
	return nil
}

// check returns why a request fails before it is made, if it does.
func (d *File) check(ctx context.Context, verb string, off, n int64) error {
	err := ctx.Err()
	if err == nil {
		err = block.CheckRange(d.size, off, n)
	}
	if err == nil && n == 0 {
		// Nothing will be asked of the kernel, so nothing else tells whether the file is open.
		err = d.checkOpen()
	}
	return d.failed(verb, off, n, err)
}

// checkOpen returns an error if the file is closed.
func (d *File) checkOpen() error {
	return d.control(func(int) error { return nil })
}

// checkPresent returns an error unless the file still reaches to end.
func (d *File) checkPresent(end int64) error {
	if d.device {
		return nil
	}
	// Cheaper than a Stat. Nobody minds where the file stands.
	size, err := d.f.Seek(0, io.SeekEnd)
	if err == nil && size < end {
		err = d.gone()
	}
	return err
}

// gone is the error for what is behind the end of a file that was made shorter.
func (d *File) gone() error {
	now := "shorter now"
	if fi, err := d.f.Stat(); err == nil {
		now = fmt.Sprintf("%d now", fi.Size())
	}
	return fmt.Errorf("the file was %d bytes long when it was opened and is %s: %w", d.size, now, syscall.EIO)
}

// failed says what failed; a nil err stays nil.
func (d *File) failed(verb string, off, n int64, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, os.ErrClosed) {
		err = block.ErrClosed
	}
	// Its path is named already.
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("%s %d bytes at %d of %s: %w", verb, n, off, d.path, err)
}

// control calls f with the file's descriptor, which stays open meanwhile.
func (d *File) control(f func(fd int) error) error {
	conn, err := d.f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := conn.Control(func(fd uintptr) { result = f(int(fd)) }); err != nil {
		// What a closed file answers here is not os.ErrClosed on every system.
		return fmt.Errorf("%w: %w", os.ErrClosed, err)
	}
	return result
}
