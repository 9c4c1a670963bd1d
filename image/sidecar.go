package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/dnbd/dnbd/internal/durable"
)

// The sidecar keeps an image's descriptor and tree beside it, in a file of the image's name and SidecarSuffix. Numbers are
// big-endian:
//
//	 0   8  magic: 0x89 "dnbd" CR LF 0x1A, which no text file starts with and a text-mode copy breaks
//	 8   4  version (SidecarVersion)
//	12   4  hash algorithm (AlgorithmBLAKE3)
//	16   4  block size in bytes
//	20   4  length of the name, N
//	24   4  length of the signature, S; 0 for none
//	28   4  0
//	32   8  size of the image in bytes
//	40   8  revision
//	48   8  created, in seconds since 1970 (signed)
//	56   8  the image's modification time when it was hashed, in nanoseconds since 1970 (signed); 0 for a block device
//	64  32  root of the tree
//	96   N  name
//	     S  signature of the descriptor, as minisign writes it (SignedText)
//	    32  BLAKE3-256 of all that is before
//	        the pages of the tree, in the order of their block numbers
//	        8 for each data block: its checksum (Checksums)
//	    32  BLAKE3-256 of the checksums
//
// There is no inode or device number in it: a copy that keeps the modification time is as good as the original.
const (
	SidecarSuffix  = ".dnbd"
	SidecarVersion = 1

	sidecarMagic = "\x89dnbd\r\n\x1a"
	sidecarFixed = 96 // bytes before the name
)

// What is wrong with a sidecar.
var (
	// ErrSidecarMagic: the file is not a sidecar.
	ErrSidecarMagic = errors.New("not a sidecar")
	// ErrSidecarVersion: it is a sidecar of a newer format, or of another hash algorithm.
	ErrSidecarVersion = errors.New("unsupported sidecar version")
	// ErrSidecarTruncated: it ends before the tree does.
	ErrSidecarTruncated = errors.New("sidecar is truncated")
	// ErrSidecarChecksum: its bytes changed since it was written: those of the header, or a page of the tree.
	ErrSidecarChecksum = errors.New("sidecar is damaged")
	// ErrSidecarInvalid: its checksum is right, and what it says makes no sense.
	ErrSidecarInvalid = errors.New("sidecar is invalid")
	// ErrOtherFile: it is the sidecar of a file of another size.
	ErrOtherFile = errors.New("sidecar of another file")
	// ErrStale: the file changed after the sidecar was made, or the sidecar is another file's.
	ErrStale = errors.New("sidecar is older than the image")
)

// Sidecar is what a sidecar file holds.
type Sidecar struct {
	Descriptor Descriptor
	// Signature is that of the descriptor, at most MaxSignature bytes; nil for none. Nobody has checked it.
	Signature []byte
	// ModTime is when the image had been modified last when it was hashed; zero for a block device.
	ModTime time.Time
	// Tree is complete.
	Tree *Tree
	// Checksums are those of all data blocks.
	Checksums Checksums
}

// SidecarPath returns the path of the sidecar of the image at path.
func SidecarPath(path string) string { return path + SidecarSuffix }

// ReadSidecar reads the sidecar file at path and verifies all of it, the tree from the root down. The error wraps that of
// the file system or one of the ErrSidecar errors.
func ReadSidecar(path string) (*Sidecar, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s, err := decodeSidecar(f, fi.Size())
	if err != nil {
		return nil, fmt.Errorf("read sidecar %s: %w", path, err)
	}
	return s, nil
}

// Validate compares a sidecar with what is known of the image beside it: its size in bytes, and its modification time,
// which is zero for a block device and then not compared. The error wraps ErrStale, and ErrOtherFile as well when the sizes
// differ.
func (s *Sidecar) Validate(size int64, modTime time.Time) error {
	if s.Descriptor.Size != size {
		return fmt.Errorf("%w, or %w: it describes %d bytes, the image has %d", ErrOtherFile, ErrStale, s.Descriptor.Size, size)
	}
	if !modTime.IsZero() && s.ModTime.UnixNano() != modTime.UnixNano() {
		return fmt.Errorf("%w: the image was modified at %s, the sidecar is of its state of %s", ErrStale,
			modTime.Format(time.RFC3339Nano), s.ModTime.Format(time.RFC3339Nano))
	}
	return nil
}

// decodeSidecar reads a sidecar of size bytes. It allocates no more than the tree that those bytes hold.
func decodeSidecar(r io.ReaderAt, size int64) (*Sidecar, error) {
	head := make([]byte, min(size, sidecarFixed+MaxNameLen+MaxSignature+HashSize))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	s, n, err := decodeHeader(head)
	if err != nil {
		return nil, err
	}
	g, err := s.Descriptor.Geometry()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSidecarInvalid, err)
	}
	want := int64(n)
	for b := g.Data(); b < g.Total(); b++ {
		want += int64(g.Len(b))
	}
	want += int64(g.Data())*checksumSize + HashSize
	switch {
	case size < want:
		return nil, fmt.Errorf("%w: it has %d of %d bytes", ErrSidecarTruncated, size, want)
	case size > want:
		return nil, fmt.Errorf("%w: it goes on for %d bytes behind its end", ErrSidecarInvalid, size-want)
	}
	rest := make([]byte, want-int64(n))
	if _, err := io.ReadFull(io.NewSectionReader(r, int64(n), int64(len(rest))), rest); err != nil {
		return nil, err
	}
	pages := make([][]byte, 0, g.Total()-g.Data())
	for b := g.Data(); b < g.Total(); b++ {
		n := g.Len(b)
		pages, rest = append(pages, rest[:n:n]), rest[n:]
	}
	if s.Tree, err = treeOf(g, s.Descriptor.Root, pages); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSidecarChecksum, err)
	}
	if s.Checksums, err = decodeChecksums(rest); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSidecarChecksum, err)
	}
	return s, nil
}

// decodeHeader reads what is before the tree from the start of p, and returns its length.
func decodeHeader(p []byte) (*Sidecar, int, error) {
	if n := min(len(p), len(sidecarMagic)); string(p[:n]) != sidecarMagic[:n] {
		return nil, 0, ErrSidecarMagic
	}
	if len(p) < sidecarFixed {
		return nil, 0, fmt.Errorf("%w: it has %d bytes", ErrSidecarTruncated, len(p))
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(p[at:]) }
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(p[at:]) }
	if v := u32(8); v != SidecarVersion {
		return nil, 0, fmt.Errorf("%w %d: this program reads version %d", ErrSidecarVersion, v, SidecarVersion)
	}
	name, signature := u32(20), u32(24)
	if name > MaxNameLen {
		return nil, 0, fmt.Errorf("%w: a name of %d bytes", ErrSidecarInvalid, name)
	}
	if signature > MaxSignature {
		return nil, 0, fmt.Errorf("%w: a signature of %d bytes", ErrSidecarInvalid, signature)
	}
	named := sidecarFixed + int(name)
	n := named + int(signature)
	if len(p) < n+HashSize {
		return nil, 0, fmt.Errorf("%w: it has %d bytes", ErrSidecarTruncated, len(p))
	}
	if Sum(p[:n]) != Hash(p[n:]) {
		return nil, 0, fmt.Errorf("%w: its header does not match its checksum", ErrSidecarChecksum)
	}
	if a := u32(12); a != AlgorithmBLAKE3 {
		return nil, 0, fmt.Errorf("%w: hash algorithm %d", ErrSidecarVersion, a)
	}
	s := &Sidecar{
		Descriptor: Descriptor{
			Name:      string(p[sidecarFixed:named]),
			Revision:  u64(40),
			Created:   time.Unix(int64(u64(48)), 0).UTC(),
			Size:      int64(u64(32)),
			BlockSize: int(u32(16)),
			Root:      Hash(p[64:]),
		},
		ModTime: time.Unix(0, int64(u64(56))),
	}
	if err := s.Descriptor.Validate(); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrSidecarInvalid, err)
	}
	if signature > 0 {
		s.Signature = bytes.Clone(p[named:n])
		if _, err := parseSignature(s.Signature); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrSidecarInvalid, err)
		}
	}
	if u32(28) != 0 {
		return nil, 0, fmt.Errorf("%w: a reserved field is set", ErrSidecarInvalid)
	}
	return s, n + HashSize, nil
}

// appendHeader appends what is before the tree.
func (s *Sidecar) appendHeader(p []byte) []byte {
	d, start := s.Descriptor, len(p)
	p = append(p, sidecarMagic...)
	for _, v := range []uint32{SidecarVersion, AlgorithmBLAKE3, uint32(d.BlockSize), uint32(len(d.Name)), uint32(len(s.Signature)), 0} {
		p = binary.BigEndian.AppendUint32(p, v)
	}
	modTime := int64(0)
	if !s.ModTime.IsZero() {
		modTime = s.ModTime.UnixNano()
	}
	for _, v := range []uint64{uint64(d.Size), d.Revision, uint64(d.Created.Unix()), uint64(modTime)} {
		p = binary.BigEndian.AppendUint64(p, v)
	}
	p = append(p, d.Root[:]...)
	p = append(p, d.Name...)
	p = append(p, s.Signature...)
	sum := Sum(p[start:])
	return append(p, sum[:]...)
}

// WriteSidecar writes a sidecar file with the permissions of mode. Whoever opens path finds what was there before or all of
// the new one, even after a crash: it is written beside, synced, and renamed.
func WriteSidecar(path string, s *Sidecar, mode fs.FileMode) error {
	if err := s.Descriptor.Validate(); err != nil {
		return fmt.Errorf("write sidecar %s: %w", path, err)
	}
	if err := durable.Replace(path, mode, s.write); err != nil {
		return fmt.Errorf("write sidecar %s: %w", path, err)
	}
	return nil
}

func (s *Sidecar) write(w io.Writer) error {
	g := s.Tree.Geometry()
	if len(s.Checksums) != int(g.Data()) {
		return fmt.Errorf("%w: %d checksums for %d blocks", ErrSidecarInvalid, len(s.Checksums), g.Data())
	}
	if _, err := w.Write(s.appendHeader(nil)); err != nil {
		return err
	}
	for b := g.Data(); b < g.Total(); b++ {
		page, ok := s.Tree.Page(b)
		if !ok {
			return fmt.Errorf("%w: page %d of the tree is not known", ErrSidecarInvalid, b)
		}
		if _, err := w.Write(page); err != nil {
			return err
		}
	}
	_, err := w.Write(s.Checksums.encode())
	return err
}
