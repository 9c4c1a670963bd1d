package cow

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"sync"

	"github.com/dnbd/dnbd/block"
)

// A kept overlay on its scratch device, all numbers little-endian:
//
//	0       header, the rest of its 4096 bytes zero
//	4096    bitmap: bit b%8 of byte b/8 is set when the overlay has block b; whole pages of 4096 bytes
//	then    block b at 4096·b from here; the last one may be short
//
// The header:
//
//	0   16  magic
//	16   4  version, 1
//	20   4  block size, 4096
//	24   8  size of the base in bytes
//	32   4  CRC-32C of bytes 0 to 31
const (
	magic      = "dnbd overlay\r\n\x1a\n"
	version    = 1
	headerSize = 4096
	checksumAt = 32
	// pageBits is how many blocks a page of the bitmap has.
	pageBits = BlockSize * 8
)

// Errors of a scratch device that was not made for the base, or is damaged.
var (
	ErrFormat   = errors.New("not an overlay of dnbd's")
	ErrVersion  = errors.New("an overlay of a version that this program does not know")
	ErrDamaged  = errors.New("the overlay's header is damaged")
	ErrMismatch = errors.New("the overlay belongs to another device")
)

// kept is the bitmap of an overlay that outlives the process.
type kept struct {
	d *Device

	// fresh has the pages of the bitmap with bits that were set since a flush last looked. Guarded by d.mu.
	fresh map[int64]struct{}

	// mu is held by the one flush under way. It is taken before d.mu.
	mu sync.Mutex
	// stable has the bits that are on stable storage, but for the pages in unwritten.
	stable bitmap
	// unwritten has the pages that were fresh and are not on stable storage yet.
	unwritten map[int64]struct{}
}

// KeptSize is how large the scratch device of a kept overlay has to be, in bytes, over a base of size bytes.
func KeptSize(size int64) int64 { return dataOffset(size) + blocks(size)*BlockSize }

// dataOffset is where the blocks begin.
func dataOffset(size int64) int64 { return headerSize + pages(size)*BlockSize }

// pages is how many pages the bitmap has.
func pages(size int64) int64 { return (blocks(size) + pageBits - 1) / pageBits }

// Kept returns a device over base that keeps what is written on scratch, of KeptSize bytes, and reads what an earlier one
// kept there. A scratch that begins with zeroes becomes an empty overlay; another one that is not an overlay of a base of
// this size is refused and left as it is. It is up to the caller that it is the same base, and that nobody else uses the
// scratch. Both devices belong to the layer, which closes them.
func Kept(ctx context.Context, base, scratch block.Device) (*Device, error) {
	size := base.Size()
	d := newDevice(base, scratch, dataOffset(size))
	// Whole pages, as on disk.
	d.inOverlay = newBitmap(pages(size) * pageBits)
	d.kept = &kept{
		d:         d,
		fresh:     map[int64]struct{}{},
		stable:    newBitmap(pages(size) * pageBits),
		unwritten: map[int64]struct{}{},
	}
	if err := d.checkScratch(); err != nil {
		return nil, err
	}
	header := make([]byte, headerSize)
	if err := scratch.ReadAt(ctx, header, 0); err != nil {
		return nil, fmt.Errorf("read the overlay's header: %w", err)
	}
	if string(header) == string(make([]byte, headerSize)) {
		return d, d.kept.create(ctx)
	}
	if err := validate(header, size); err != nil {
		return nil, err
	}
	return d, d.kept.load(ctx)
}

// header returns the header of an overlay over a base of size bytes.
func header(size int64) []byte {
	h := make([]byte, headerSize)
	copy(h, magic)
	binary.LittleEndian.PutUint32(h[16:], version)
	binary.LittleEndian.PutUint32(h[20:], BlockSize)
	binary.LittleEndian.PutUint64(h[24:], uint64(size))
	binary.LittleEndian.PutUint32(h[checksumAt:], checksum(h))
	return h
}

func checksum(h []byte) uint32 {
	return crc32.Checksum(h[:checksumAt], crc32.MakeTable(crc32.Castagnoli))
}

// validate returns why a header is not that of an overlay over a base of size bytes.
func validate(h []byte, size int64) error {
	switch {
	case string(h[:len(magic)]) != magic:
		return fmt.Errorf("%w: name another scratch file, or remove it", ErrFormat)
	case binary.LittleEndian.Uint32(h[checksumAt:]) != checksum(h):
		return ErrDamaged
	case binary.LittleEndian.Uint32(h[16:]) != version:
		return fmt.Errorf("%w: %d; this one knows version %d", ErrVersion, binary.LittleEndian.Uint32(h[16:]), version)
	case binary.LittleEndian.Uint32(h[20:]) != BlockSize:
		return fmt.Errorf("%w: blocks of %d bytes", ErrVersion, binary.LittleEndian.Uint32(h[20:]))
	case binary.LittleEndian.Uint64(h[24:]) != uint64(size):
		return fmt.Errorf("%w: of %d bytes, where this one has %d", ErrMismatch, binary.LittleEndian.Uint64(h[24:]), size)
	}
	return nil
}

// create writes an empty overlay. The header comes last: until it is there nothing is.
func (k *kept) create(ctx context.Context) error {
	err := k.d.scratch.WriteZeroes(ctx, headerSize, k.d.data-headerSize, false, false, true)
	if err == nil {
		err = k.d.scratch.WriteAt(ctx, header(k.d.size), 0, true)
	}
	if err != nil {
		return fmt.Errorf("make the overlay: %w", err)
	}
	return nil
}

// load reads the bitmap.
func (k *kept) load(ctx context.Context) error {
	p := make([]byte, BlockSize)
	for page := range pages(k.d.size) {
		if err := k.d.scratch.ReadAt(ctx, p, headerSize+page*BlockSize); err != nil {
			return fmt.Errorf("read the overlay's bitmap: %w", err)
		}
		words := k.stable.page(page)
		for i := range words {
			words[i] = binary.LittleEndian.Uint64(p[i*8:])
		}
	}
	copy(k.d.inOverlay, k.stable)
	return nil
}

// noteLocked notes that bits were set. The caller holds d.mu.
func (k *kept) noteLocked(first, end int64) {
	for page := first / pageBits; page*pageBits < end; page++ {
		k.fresh[page] = struct{}{}
	}
}

// has says whether the bits of blocks are on stable storage.
func (k *kept) has(first, end int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for page := first / pageBits; page*pageBits < end; page++ {
		if _, ok := k.unwritten[page]; ok {
			return false
		}
	}
	return k.stable.has(first) && k.stable.run(first, end) == end
}

// flush puts all changes that were answered on stable storage, and then the bits of their blocks.
func (k *kept) flush(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	// What is in the overlay now will be on stable storage after the flush; what comes meanwhile may not.
	now := k.takeFresh()
	if err := k.d.scratch.Flush(ctx); err != nil || len(now) == 0 {
		return err
	}
	for page, words := range now {
		p := make([]byte, 0, BlockSize)
		for _, word := range words {
			p = binary.LittleEndian.AppendUint64(p, word)
		}
		if err := k.d.scratch.WriteAt(ctx, p, headerSize+page*BlockSize, false); err != nil {
			return fmt.Errorf("write the overlay's bitmap: %w", err)
		}
	}
	if err := k.d.scratch.Flush(ctx); err != nil {
		return err
	}
	for page, words := range now {
		copy(k.stable.page(page), words)
	}
	clear(k.unwritten)
	return nil
}

// takeFresh returns the pages that have to be written, as they are now. The caller holds mu.
func (k *kept) takeFresh() map[int64]bitmap {
	k.d.mu.Lock()
	defer k.d.mu.Unlock()
	maps.Copy(k.unwritten, k.fresh)
	clear(k.fresh)
	now := make(map[int64]bitmap, len(k.unwritten))
	for page := range k.unwritten {
		now[page] = slices.Clone(k.d.inOverlay.page(page))
	}
	return now
}
