package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// source is the file or block device that holds an image's bytes.
type source struct {
	*os.File
	size    int64
	modTime time.Time // zero for a block device: that of its node says nothing about its bytes
	mode    fs.FileMode
}

// openSource opens a file or block device that is to be an image. The errors say what the user can do.
func openSource(path string) (*source, error) {
	// Asked before opening, which would wait for the other end of a named pipe.
	fi, err := os.Stat(path)
	if err != nil {
		return nil, cannotOpen(err)
	}
	if fi.IsDir() {
		return nil, fmt.Errorf("open image: %s is a directory; name a file or a block device", path)
	}
	if !fi.Mode().IsRegular() && !isBlockDevice(fi.Mode()) {
		return nil, fmt.Errorf("open image: %s is neither a file nor a block device", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, cannotOpen(err)
	}
	s := &source{File: f}
	if s.size, s.modTime, s.mode, err = identify(f); err == nil && s.size == 0 {
		err = fmt.Errorf("%s is empty; an image has at least one byte", path)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open image: %w", err)
	}
	return s, nil
}

// cannotOpen adds the way out to an error of the file system, which names the path.
func cannotOpen(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("open image: %w; check the path", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("open image: %w; make it readable for this user, or run as one who may read it", err)
	}
	return fmt.Errorf("open image: %w", err)
}

// identify asks the file system what an open file looks like now.
func identify(f *os.File) (size int64, modTime time.Time, mode fs.FileMode, err error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, time.Time{}, 0, err
	}
	if isBlockDevice(fi.Mode()) {
		// A device has no size in its inode; its end is where a seek to the end arrives. Reads name their offset, so that
		// nobody minds where the file stands.
		size, err = f.Seek(0, io.SeekEnd)
		return size, time.Time{}, fi.Mode(), err
	}
	return fi.Size(), fi.ModTime(), fi.Mode(), nil
}

func isBlockDevice(m fs.FileMode) bool {
	return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0
}

// changed says whether the file differs, by size and modification time, from when it was opened.
func (s *source) changed() (bool, error) {
	size, modTime, _, err := identify(s.File)
	if err != nil {
		return false, err
	}
	return size != s.size || !modTime.Equal(s.modTime), nil
}
