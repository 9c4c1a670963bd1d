package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/client"
	"github.com/dnbd/dnbd/internal/target"
)

// isFile says whether name means a local file rather than an image of a group.
func isFile(name string) bool {
	if strings.HasPrefix(strings.ToLower(name), target.Scheme) {
		return false
	}
	if strings.ContainsRune(name, os.PathSeparator) {
		return true
	}
	_, err := os.Stat(image.SidecarPath(name))
	return err == nil
}

// localFile is a file or block device as the source of a copy.
type localFile struct {
	file  *os.File
	size  int64
	image *image.Image // nil without a sidecar
	block int64        // number of the block in buf, -1 for none
	buf   []byte
}

// openLocal opens a file, with its sidecar if there is one.
func openLocal(path string) (*localFile, error) {
	m, err := image.Open(path)
	switch {
	case err == nil:
		d := m.Descriptor()
		return &localFile{size: d.Size, image: m, block: -1, buf: make([]byte, d.BlockSize)}, nil
	case !errors.Is(err, image.ErrNoSidecar):
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	// The end of a file and of a block device is where a seek to the end arrives.
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &localFile{file: f, size: n}, nil
}

// Size implements reader.
func (f *localFile) Size() int64 { return f.size }

// Close implements reader.
func (f *localFile) Close() error {
	if f.image != nil {
		return f.image.Close()
	}
	return f.file.Close()
}

// Copy implements reader.
func (f *localFile) Copy(ctx context.Context, sink client.Sink) error {
	step := int64(streamChunk)
	if f.image != nil {
		step = int64(len(f.buf)) // a block at a time, so that zero ones are not written
	}
	buf, zeros := make([]byte, step), make([]byte, step)
	for off := int64(0); off < f.size; off += step {
		p := buf[:min(step, f.size-off)]
		if err := f.ReadAt(ctx, p, off); err != nil {
			return err
		}
		var err error
		if bytes.Equal(p, zeros[:len(p)]) {
			err = sink.Zero(off, int64(len(p)))
		} else {
			err = sink.Write(off, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ReadAt implements reader.
func (f *localFile) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.image == nil {
		_, err := f.file.ReadAt(p, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		} else if err != nil {
			return fmt.Errorf("read %d bytes at %d of %s: the file ends before that", len(p), off, f.file.Name())
		}
		return nil
	}
	for size := int64(len(f.buf)); len(p) > 0; {
		number := off / size
		if number != f.block {
			f.block = -1
			if _, err := f.image.ReadBlock(uint32(number), f.buf); err != nil {
				return err
			}
			f.block = number
		}
		n := copy(p, f.buf[off%size:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}
