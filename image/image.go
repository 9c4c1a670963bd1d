package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/dnbd/dnbd/block"
)

// Why an image could not be opened, or not made as asked.
var (
	// ErrNoSidecar: nobody hashed the file yet.
	ErrNoSidecar = errors.New("image has no sidecar")
	// ErrSidecarNotWritten: the image is hashed and can be used, but its sidecar could not be kept for the next time.
	ErrSidecarNotWritten = errors.New("sidecar not written")
	// ErrChanged: the file was written to while it was hashed.
	ErrChanged = errors.New("image changed while it was hashed")
)

// Image is a file or block device with the complete tree of its content. All methods may be called from many goroutines at
// once.
type Image struct {
	path    string
	source  *source
	sidecar Sidecar
	id      ID
	parts   sync.Pool // of *[]byte, each of a block's size
	closed  atomic.Bool
}

// Open opens the file or block device at path with the sidecar beside it. The error wraps ErrNoSidecar when there is none,
// ErrStale when the file's size or modification time is not what the sidecar was made from, and one of the ErrSidecar
// errors when the sidecar cannot be used. A block device's time is not compared.
func Open(path string) (*Image, error) {
	src, err := openSource(path)
	if err != nil {
		return nil, err
	}
	s, err := readSidecarOf(path)
	if err == nil {
		err = s.Validate(src.size, src.modTime)
	}
	if err != nil {
		src.Close()
		return nil, fmt.Errorf("open image %s: %w; 'dnbd image create' makes a new sidecar", path, err)
	}
	return newImage(path, src, s), nil
}

// readSidecarOf reads the sidecar of the image at path.
func readSidecarOf(path string) (*Sidecar, error) {
	s, err := ReadSidecar(SidecarPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (%s)", ErrNoSidecar, SidecarPath(path))
	}
	return s, err
}

func newImage(path string, src *source, s *Sidecar) *Image {
	return &Image{path: path, source: src, sidecar: *s, id: s.Descriptor.ID()}
}

// Path is the path that the image was opened by.
func (m *Image) Path() string { return m.path }

// Descriptor describes the image.
func (m *Image) Descriptor() Descriptor { return m.sidecar.Descriptor }

// Signature is the signature of the descriptor, unchecked; nil for none. It is not to be changed.
func (m *Image) Signature() []byte { return m.sidecar.Signature }

// ID names the image's content.
func (m *Image) ID() ID { return m.id }

// Rename gives the image another name. Its sidecar keeps its own: the name is for those who are offered the image meanwhile, without
// the signature, which is of the other name. It comes before anything else that is done with the image. The error wraps ErrName when the name cannot be one.
func (m *Image) Rename(name string) error {
	d := m.sidecar.Descriptor
	d.Name = name
	if err := d.Validate(); err != nil {
		return fmt.Errorf("image %s: %w", m.path, err)
	}
	if d.Name != m.sidecar.Descriptor.Name {
		m.sidecar.Signature = nil
	}
	m.sidecar.Descriptor = d
	return nil
}

// Geometry says how the image is divided into blocks.
func (m *Image) Geometry() Geometry { return m.sidecar.Tree.Geometry() }

// Tree is the image's tree, complete.
func (m *Image) Tree() *Tree { return m.sidecar.Tree }

// ReadBlock reads a data block, or a page of the tree, into p and returns its length. Bytes that do not match their hash
// are never returned: the error then wraps block.ErrCorrupt, and p's contents are undefined. A block that the image does
// not have is block.ErrRange, a closed image block.ErrClosed. It allocates nothing unless it fails.
func (m *Image) ReadBlock(number uint32, p []byte) (int, error) {
	g := &m.sidecar.Tree.geometry
	n := g.Len(number)
	if n == 0 {
		return 0, fmt.Errorf("read block %d of %s: it has %d: %w", number, m.path, g.Total(), block.ErrRange)
	}
	if len(p) < n {
		return 0, fmt.Errorf("read block %d of %s: %w", number, m.path, io.ErrShortBuffer)
	}
	if page, ok := m.sidecar.Tree.Page(number); ok {
		return copy(p, page), nil
	}
	off := g.Offset(number)
	_, err := m.source.ReadAt(p[:n], off)
	switch {
	case errors.Is(err, os.ErrClosed):
		return 0, fmt.Errorf("read block %d of %s: %w", number, m.path, block.ErrClosed)
	case errors.Is(err, io.EOF):
		return 0, fmt.Errorf("read block %d of %s at offset %d: the file ends before it does: %w", number, m.path, off,
			block.ErrCorrupt)
	case err != nil:
		return 0, fmt.Errorf("read block %d of %s at offset %d: %w", number, m.path, off, err)
	}
	if m.sidecar.Checksums.match(number, p[:n]) {
		return n, nil
	}
	if want, _ := m.sidecar.Tree.Hash(number); Sum(p[:n]) != want {
		return 0, fmt.Errorf("read block %d of %s at offset %d: %w", number, m.path, off, block.ErrCorrupt)
	}
	return n, nil
}

// Stale says whether the file that is open, by its size and modification time, is no longer what was hashed. It asks the
// file system and reads nothing. A file that was put in its place under the same name is not looked at: the open one is
// still whole.
func (m *Image) Stale() (bool, error) {
	stale, err := m.source.changed()
	if err != nil {
		return false, fmt.Errorf("look at image %s: %w", m.path, err)
	}
	return stale, nil
}

// Close closes the file. A second Close does nothing.
func (m *Image) Close() error {
	m.closed.Store(true)
	if err := m.source.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close image %s: %w", m.path, err)
	}
	return nil
}
