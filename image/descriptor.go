package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// FormatVersion is the version of the tree's and the id's layout. It is hashed into the id.
const FormatVersion = 1

// MaxNameLen is the longest name of an image, in bytes.
const MaxNameLen = 128

// What is wrong with a descriptor.
var (
	// ErrName: the name is empty, too long, or has characters that a name may not have.
	ErrName = errors.New("invalid image name")
	// ErrRevision: the revision is 0, which stands for "the newest" where an image is asked for.
	ErrRevision = errors.New("invalid image revision")
	// ErrSize: the size is not positive.
	ErrSize = errors.New("invalid image size")
	// ErrBlockSize: the block size is not a power of two from MinBlockSize to MaxBlockSize.
	ErrBlockSize = errors.New("invalid block size")
	// ErrTooManyBlocks: data and tree have more blocks than a uint32 can number.
	ErrTooManyBlocks = errors.New("too many blocks")
)

// Descriptor is what there is to say about an image in a few bytes. Size, BlockSize and Root make its id; the others are
// labels that do not change it.
type Descriptor struct {
	// Name is what people call the image: 1 to MaxNameLen characters of A–Z a–z 0–9 . _ + -, not starting with . or - and
	// not of the form of an id.
	Name string
	// Revision counts the contents that the name has had, from 1.
	Revision uint64
	// Created is when this revision was first hashed, in whole seconds.
	Created time.Time
	// Size is the image's length in bytes.
	Size int64
	// BlockSize is the length in bytes of every block but the last.
	BlockSize int
	// Root is the hash of the top page of the tree.
	Root Hash
}

// ID returns the name of the content: the hash of 68 bytes, numbers in big-endian order:
//
//	 0  16  "dnbd-image-id" and three zero bytes, so that no block and no page has the same hash
//	16   4  format version (FormatVersion)
//	20   4  hash algorithm (AlgorithmBLAKE3)
//	24   8  size of the image in bytes
//	32   4  block size in bytes
//	36  32  root of the tree
func (d Descriptor) ID() ID {
	var b [68]byte
	copy(b[:16], "dnbd-image-id")
	binary.BigEndian.PutUint32(b[16:], FormatVersion)
	binary.BigEndian.PutUint32(b[20:], AlgorithmBLAKE3)
	binary.BigEndian.PutUint64(b[24:], uint64(d.Size))
	binary.BigEndian.PutUint32(b[32:], uint32(d.BlockSize))
	copy(b[36:], d.Root[:])
	return ID(Sum(b[:]))
}

// Validate returns nil, or an error that wraps ErrName, ErrRevision, ErrSize, ErrBlockSize or ErrTooManyBlocks.
func (d Descriptor) Validate() error {
	if err := checkName(d.Name); err != nil {
		return err
	}
	if d.Revision == 0 {
		return fmt.Errorf("image %s: %w: revisions count from 1", d.Name, ErrRevision)
	}
	if _, err := d.Geometry(); err != nil {
		return fmt.Errorf("image %s: %w", d.Name, err)
	}
	return nil
}

// Geometry returns how the image is divided into blocks, or the error of NewGeometry.
func (d Descriptor) Geometry() (Geometry, error) { return NewGeometry(d.Size, d.BlockSize) }

func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrName)
	case len(name) > MaxNameLen:
		return fmt.Errorf("%w: %.40q… has %d characters, %d at most", ErrName, name, len(name), MaxNameLen)
	case name[0] == '.' || name[0] == '-':
		return fmt.Errorf("%w: %q starts with %q", ErrName, name, name[:1])
	case strings.IndexFunc(name, invalidInName) >= 0:
		return fmt.Errorf("%w: %q has characters other than A-Z a-z 0-9 . _ + -", ErrName, name)
	}
	if _, err := ParseID(name); err == nil {
		return fmt.Errorf("%w: %q would be taken for an image id", ErrName, name)
	}
	return nil
}

func invalidInName(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return false
	}
	return !strings.ContainsRune("._+-", r)
}
