package nbdserve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/layer/cow"
	"github.com/dnbd/dnbd/internal/nbdconf"
	"github.com/dnbd/dnbd/internal/source/concat"
	"github.com/dnbd/dnbd/internal/source/file"
)

// device opens what the export serves to a client whose file is at path.
func (e *export) device(path string) (block.Device, error) {
	if e.Temporary {
		d, err := file.Temporary(filepath.Dir(path), e.FileSize)
		if err != nil {
			return nil, err
		}
		return e.offer(d), nil
	}
	d, err := e.base(path)
	if err != nil {
		return nil, err
	}
	if e.CopyOnWrite {
		over, err := e.copyOnWrite(d, path)
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		d = over
	}
	return e.offer(d), nil
}

// base opens the file, or the files, that are there for all clients.
func (e *export) base(path string) (block.Device, error) {
	if e.MultiFile {
		return e.parts(path)
	}
	if e.FileSize > 0 {
		e.making.Lock() // or another client would find the file before it has its size
		defer e.making.Unlock()
	}
	if e.FileSize > 0 && !e.ReadOnly && empty(path) {
		if err := e.makeLocked(path); err != nil {
			return nil, err
		}
	}
	d, err := e.file(path)
	if err != nil {
		return nil, err
	}
	switch has := d.Size(); {
	case e.FileSize == 0 || e.FileSize == has:
		return d, nil
	case e.FileSize > has:
		return nil, errors.Join(fmt.Errorf("%s holds %d bytes, and filesize is %d", path, has, e.FileSize), d.Close())
	}
	return join([]concat.Part{{Device: d, Size: e.FileSize}})
}

// file opens one file. One that is not to be written to, or cannot be, is opened to be read.
func (e *export) file(path string) (block.Device, error) {
	if !e.ReadOnly && !e.CopyOnWrite {
		d, err := file.OpenWritable(path, false) // each connection opens it
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EROFS) {
			return nil, err
		}
		e.log.Warn("served read-only", "err", err)
	}
	d, err := file.Open(path)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// empty says whether a file is missing or has nothing in it.
func empty(path string) bool {
	fi, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && fi.Mode().IsRegular() && fi.Size() == 0
}

// makeLocked makes an empty file one of filesize.
func (e *export) makeLocked(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(f.Truncate(e.FileSize), f.Close())
	}
	if err != nil {
		return fmt.Errorf("make a file of filesize: %w", err)
	}
	e.log.Info("made a file of filesize", "file", path, "size", e.FileSize)
	return nil
}

// parts opens the files of an export with multifile.
func (e *export) parts(path string) (block.Device, error) {
	var open []block.Device // while Parts asks for their sizes
	list, err := nbdconf.Parts(path, e.FileSize, func(path string) (int64, error) {
		d, err := e.file(path)
		if err != nil {
			return 0, err
		}
		open = append(open, d)
		return d.Size(), nil
	})
	var parts []concat.Part
	for i, d := range open {
		if err == nil && i < len(list) {
			parts = append(parts, concat.Part{Device: d, Size: list[i].Size})
		} else {
			err = errors.Join(err, d.Close())
		}
	}
	if err != nil {
		for _, p := range parts {
			err = errors.Join(err, p.Device.Close())
		}
		return nil, err
	}
	return join(parts)
}

// join makes one device of parts, and closes them when it cannot.
func join(parts []concat.Part) (block.Device, error) {
	d, err := concat.New(parts)
	if err != nil {
		for _, p := range parts {
			err = errors.Join(err, p.Device.Close())
		}
		return nil, err
	}
	return d, nil
}

// copyOnWrite returns a device over base whose changes go to a file without a name.
func (e *export) copyOnWrite(base block.Device, path string) (block.Device, error) {
	dir := e.CowDir
	if dir == "" {
		dir = filepath.Dir(path)
	}
	scratch, err := file.Temporary(dir, base.Size())
	if err != nil {
		return nil, fmt.Errorf("make a file for copyonwrite: %w", err)
	}
	d, err := cow.Temporary(base, scratch)
	if err != nil {
		return nil, errors.Join(err, scratch.Close())
	}
	return d, nil
}

// offer returns d with what the configuration lets clients know of.
func (e *export) offer(d block.Device) block.Device {
	full, ok := d.(block.Full)
	if !ok {
		return d // to be read only
	}
	if e.Sync {
		full = synced{full}
	}
	switch {
	case e.Flush && e.Trim:
		return full
	case e.Flush:
		return struct {
			always
			block.Flusher
		}{full, full}
	case e.Trim:
		return struct {
			always
			block.Trimmer
		}{full, full}
	}
	return struct{ always }{full}
}

// always is what clients may do whatever the configuration says.
type always interface {
	block.Device
	block.Writer
	block.Zeroer
	block.Prefetcher
	block.Mapper
}

// synced is a device all of whose changes are on stable storage when they are answered.
type synced struct{ block.Full }

// WriteAt implements block.Writer.
func (s synced) WriteAt(ctx context.Context, p []byte, off int64, _ bool) error {
	return s.Full.WriteAt(ctx, p, off, true)
}

// Trim implements block.Trimmer.
func (s synced) Trim(ctx context.Context, off, n int64, _ bool) error {
	return s.Full.Trim(ctx, off, n, true)
}

// WriteZeroes implements block.Zeroer.
func (s synced) WriteZeroes(ctx context.Context, off, n int64, hole, fast, _ bool) error {
	return s.Full.WriteZeroes(ctx, off, n, hole, fast, true)
}
