package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// CreateOptions are the labels and the block size of an image that is hashed. What is left zero is taken from the sidecar
// that is there already, so that an image keeps its name when its content changes.
type CreateOptions struct {
	// Name is the image's name; without a sidecar, that of the file without its extension.
	Name string
	// Revision is the image's revision. By itself it is 1 for a new name, stays while the content stays, and counts up when
	// it changes.
	Revision uint64
	// BlockSize is in bytes; without a sidecar, DefaultBlockSize.
	BlockSize int
	// Progress, if not nil, is told how many bytes of how many are hashed, as in Build.
	Progress func(done, total int64)
}

// Create hashes the file or block device at path and writes its sidecar. When the image is hashed and only its sidecar
// could not be written, it returns both the image, which can be used, and an error that wraps ErrSidecarNotWritten. When
// the file changes meanwhile the error wraps ErrChanged. A file that has the sidecar's name and is none, or is one of a
// newer format, is not overwritten.
func Create(ctx context.Context, path string, o CreateOptions) (*Image, error) {
	src, prev, err := openBoth(path)
	if err != nil {
		return nil, err
	}
	return create(ctx, path, src, prev, o)
}

// OpenOrCreate is Open where the sidecar is there, fresh, undamaged and of the block size that o may ask for; otherwise it
// is Create. Where only the labels differ from o's it changes them in the sidecar without hashing anything.
func OpenOrCreate(ctx context.Context, path string, o CreateOptions) (*Image, error) {
	src, prev, err := openBoth(path)
	if err != nil {
		return nil, err
	}
	if prev == nil || prev.Validate(src.size, src.modTime) != nil ||
		o.BlockSize != 0 && o.BlockSize != prev.Descriptor.BlockSize {
		return create(ctx, path, src, prev, o)
	}
	d, err := label(path, prev.Descriptor, prev, o)
	if err != nil {
		src.Close()
		return nil, err
	}
	if d.Name == prev.Descriptor.Name && d.Revision == prev.Descriptor.Revision {
		return newImage(path, src, prev), nil
	}
	return keep(newImage(path, src, &Sidecar{Descriptor: d, ModTime: prev.ModTime, Tree: prev.Tree, Checksums: prev.Checksums}))
}

// openBoth opens the file at path and reads its sidecar; that is nil where there is none that can be used and nothing is
// lost by writing a new one.
func openBoth(path string) (*source, *Sidecar, error) {
	src, err := openSource(path)
	if err != nil {
		return nil, nil, err
	}
	s, err := readSidecarOf(path)
	if errors.Is(err, ErrSidecarMagic) || errors.Is(err, ErrSidecarVersion) {
		src.Close()
		return nil, nil, fmt.Errorf("image %s: %w; it is not overwritten: move it away to have a new one made", path, err)
	}
	return src, s, nil
}

// create is Create with both files opened. It owns src.
func create(ctx context.Context, path string, src *source, prev *Sidecar, o CreateOptions) (*Image, error) {
	m, err := hash(ctx, path, src, prev, o)
	if err != nil {
		src.Close()
		return nil, fmt.Errorf("hash image %s: %w", path, err)
	}
	return keep(m)
}

func hash(ctx context.Context, path string, src *source, prev *Sidecar, o CreateOptions) (*Image, error) {
	d := Descriptor{Size: src.size, BlockSize: o.BlockSize}
	if d.BlockSize == 0 {
		d.BlockSize = DefaultBlockSize
		if prev != nil {
			d.BlockSize = prev.Descriptor.BlockSize
		}
	}
	// A wrong label is said before the work, not after it.
	if _, err := label(path, d, prev, o); err != nil {
		return nil, err
	}
	var progress func(int64)
	if o.Progress != nil {
		progress = func(done int64) { o.Progress(done, src.size) }
	}
	tree, sums, err := Build(ctx, src, src.size, d.BlockSize, progress)
	// Asked even if reading failed: that the file shrank is the better reason.
	if changed, statErr := src.changed(); changed || statErr != nil {
		return nil, errors.Join(statErr, fmt.Errorf("%w; try again when nothing writes to it", ErrChanged))
	}
	if err != nil {
		return nil, err
	}
	d.Root = tree.Root()
	if d, err = label(path, d, prev, o); err != nil {
		return nil, err
	}
	s := &Sidecar{Descriptor: d, ModTime: src.modTime, Tree: tree, Checksums: sums}
	if prev != nil && bytes.Equal(d.SignedText(), prev.Descriptor.SignedText()) {
		s.Signature = prev.Signature // it is still what was signed
	}
	return newImage(path, src, s), nil
}

// label fills in the labels of d, the descriptor of the image at path, and validates it.
func label(path string, d Descriptor, prev *Sidecar, o CreateOptions) (Descriptor, error) {
	d.Name, d.Revision, d.Created = o.Name, o.Revision, time.Now().UTC().Truncate(time.Second)
	if prev == nil {
		prev = &Sidecar{Descriptor: Descriptor{Name: NameOf(path)}}
	}
	if d.Name == "" {
		d.Name = prev.Descriptor.Name
	}
	if d.Revision == 0 {
		d.Revision = 1
		if d.Name == prev.Descriptor.Name {
			d.Revision = prev.Descriptor.Revision
			if d.Revision == 0 || d.ID() != prev.Descriptor.ID() {
				d.Revision++
			}
		}
	}
	if d.ID() == prev.Descriptor.ID() && d.Name == prev.Descriptor.Name && d.Revision == prev.Descriptor.Revision {
		d.Created = prev.Descriptor.Created
	}
	return d, d.Validate()
}

// keep writes m's sidecar.
func keep(m *Image) (*Image, error) {
	if err := WriteSidecar(SidecarPath(m.path), &m.sidecar, m.source.mode); err != nil {
		return m, fmt.Errorf("%w: %w", ErrSidecarNotWritten, err)
	}
	return m, nil
}

// NameOf makes a valid image name of a path: its last part, without what looks like a file type, with - for what a name
// cannot have.
func NameOf(path string) string {
	name := filepath.Base(path)
	// .img and .squashfs are file types; in debian-12.4 the 4 is not.
	if ext := filepath.Ext(name); len(ext) > 1 && len(ext) < len(name) && (ext[1] < '0' || ext[1] > '9') {
		name = name[:len(name)-len(ext)]
	}
	name = strings.Map(func(r rune) rune {
		if invalidInName(r) {
			return '-'
		}
		return r
	}, name)
	name = strings.TrimLeft(name, ".-")
	name = name[:min(len(name), MaxNameLen)]
	if checkName(name) != nil {
		return "image"
	}
	return name
}
