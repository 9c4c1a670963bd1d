package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"golang.org/x/term"

	"github.com/dnbd/dnbd/block"
)

// The destinations of a copy that are no files.
const (
	toStdout = "-"
	toNull   = "null:"
)

// zeroChunk is how many zero bytes are written at a time, where they have to be written.
const zeroChunk = 1 << 20

// destination is where a copy goes.
type destination struct {
	// inOrder says that write wants the bytes in their order, zero ones too.
	inOrder bool
	// write and zero put bytes, or zero bytes, at an offset. Where the order does not matter they may be called from many
	// goroutines at once.
	write func(off int64, p []byte) error
	zero  func(off, n int64) error
	// close makes what was written last, or undoes it if the copy failed with err, which it returns with its own.
	close func(err error) error
}

// openDestination opens dest for size bytes. source is the file that they come from, if it is one. replay is for an NBD server.
func openDestination(ctx context.Context, dest string, size int64, source string, replay replayFlag) (*destination, error) {
	if isNBD(dest) {
		return export(ctx, dest, size, replay)
	}
	switch dest {
	case toNull:
		return &destination{
			write: func(int64, []byte) error { return nil },
			zero:  func(int64, int64) error { return nil },
			close: func(err error) error { return err },
		}, nil
	case toStdout:
		if term.IsTerminal(int(os.Stdout.Fd())) {
			return nil, errors.New("standard output is a terminal; redirect it, or name a file")
		}
		return stream(os.Stdout), nil
	}
	fi, err := os.Stat(dest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return newFile(dest, size)
	case err != nil:
		return nil, err
	case fi.IsDir():
		return nil, fmt.Errorf("%s is a directory; name a file in it", dest)
	}
	if from, err := os.Stat(source); err == nil && os.SameFile(from, fi) {
		return nil, fmt.Errorf("%s and %s are the same file", source, dest)
	}
	switch {
	case fi.Mode().IsRegular():
		return oldFile(dest, size)
	case fi.Mode()&fs.ModeDevice != 0 && fi.Mode()&fs.ModeCharDevice == 0:
		return device(dest, size)
	}
	f, err := os.OpenFile(dest, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	return stream(f), nil
}

// stream writes to a pipe, or whatever else has no places.
func stream(f *os.File) *destination {
	return &destination{
		inOrder: true,
		write: func(_ int64, p []byte) error {
			_, err := f.Write(p)
			return err
		},
		close: func(err error) error { return errors.Join(err, f.Close()) },
	}
}

// newFile makes a file, and removes it again when the copy fails.
func newFile(path string, size int64) (*destination, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	d := sparse(f)
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	d.close = func(err error) error {
		if err = finish(f, err); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
		return err
	}
	return d, nil
}

// oldFile writes over a file.
func oldFile(path string, size int64) (*destination, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	// Emptied first: then all of it is zero.
	if err := errors.Join(f.Truncate(0), f.Truncate(size)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d := sparse(f)
	d.close = func(err error) error {
		if err = finish(f, err); err != nil {
			err = fmt.Errorf("%w; %s is incomplete", err, path)
		}
		return err
	}
	return d, nil
}

// sparse writes to a file that is all zero.
func sparse(f *os.File) *destination {
	return &destination{
		write: func(off int64, p []byte) error {
			_, err := f.WriteAt(p, off)
			return err
		},
		zero: func(int64, int64) error { return nil },
	}
}

// device writes to a block device. What is behind the image's end stays.
func device(path string, size int64) (*destination, error) {
	// Exclusive: a device that is mounted, or part of another, is refused.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_EXCL, 0)
	if err != nil {
		return nil, fmt.Errorf("%w; a device that is in use is not written to", err)
	}
	room, err := f.Seek(0, 2)
	if err == nil && room < size {
		err = fmt.Errorf("%s has %d bytes, the image %d", path, room, size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &destination{
		write: func(off int64, p []byte) error {
			_, err := f.WriteAt(p, off)
			return err
		},
		zero: func(off, n int64) error {
			if zeroOut(f, off, n) == nil {
				return nil
			}
			return writeZeros(f, off, n)
		},
		close: func(err error) error {
			if err = finish(f, err); err != nil {
				err = fmt.Errorf("%w; what is on %s is incomplete", err, path)
			}
			return err
		},
	}, nil
}

// export writes to an NBD export. What is behind the image's end stays.
func export(ctx context.Context, uri string, size int64, replay replayFlag) (*destination, error) {
	d, err := openRemote(ctx, uri, nil, replay, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	w, writable := d.(block.Writer)
	switch {
	case !writable:
		err = fmt.Errorf("%s is exported read-only", uri)
	case d.Size() < size:
		err = fmt.Errorf("%s has %d bytes, the image %d", uri, d.Size(), size)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	below := block.Lower{Device: d}
	return &destination{
		write: func(off int64, p []byte) error { return w.WriteAt(ctx, p, off, false) },
		zero:  func(off, n int64) error { return below.WriteZeroes(ctx, off, n, true, false, false) },
		close: func(err error) error {
			if f, ok := d.(block.Flusher); ok && err == nil {
				err = f.Flush(ctx)
			}
			if err = errors.Join(err, d.Close()); err != nil {
				err = fmt.Errorf("%w; what is on %s is incomplete", err, uri)
			}
			return err
		},
	}, nil
}

// writeZeros writes n zero bytes at off.
func writeZeros(f *os.File, off, n int64) error {
	zeros := make([]byte, min(n, zeroChunk))
	for n > 0 {
		p := zeros[:min(n, zeroChunk)]
		if _, err := f.WriteAt(p, off); err != nil {
			return err
		}
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	return nil
}

// finish closes a file, after all of it is on the disk if the copy did not fail with err. It returns err with its own.
func finish(f *os.File, err error) error {
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
