package cache

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
)

// The errors of Open, Info and Check that a caller may tell apart. They come wrapped in one that names the file.
var (
	// ErrForeign: the file holds something that is not a cache, and was left alone.
	ErrForeign = errors.New("not a cache file and not empty")
	// ErrInUse: another process, or another Cache of this one, has the file open.
	ErrInUse = errors.New("in use")
	// ErrBlank: the file holds only zeros. Open makes a cache of it; there is nothing to see for Info and Check.
	ErrBlank = errors.New("only zeros so far: it becomes a cache when it is first used")
)

// Open opens the cache file at path, with what earlier runs left in it, and locks it until Close.
//
// With size 0 the file exists beforehand (made with dd, or a block device), and its size is the capacity, header and
// table included. With size > 0 a missing file is made and its space is reserved; one of another size is an error. The
// file becomes a cache when it holds only zeros, and becomes an empty one when it is a cache of another slot size,
// another version of the format or another length, or its header is damaged: its entries are misses, which log is told.
// A file with any other contents is left alone: ErrForeign. log may be nil.
func Open(path string, size int64, slotSize int, log *slog.Logger) (_ *Cache, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open cache %s: %w", path, err)
		}
	}()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("cache", path)
	if err := checkSlotSize(slotSize); err != nil {
		return nil, err
	}
	if size != 0 {
		if err := checkFileSize(size, slotSize); err != nil {
			return nil, err
		}
	}
	f, err := openFile(path, size)
	if err != nil {
		return nil, err
	}
	c, err := open(f, size, slotSize, log)
	if err != nil {
		f.Close()
		return nil, err
	}
	return c, nil
}

// open makes a Cache of f, which it has locked when it returns no error.
func open(f *os.File, size int64, slotSize int, log *slog.Logger) (*Cache, error) {
	if err := lock(f, true); err != nil {
		return nil, err
	}
	actual, err := fileSize(f)
	if err != nil {
		return nil, err
	}
	if size > 0 && actual == 0 {
		if err := allocate(f, size); err != nil {
			return nil, errors.Join(fmt.Errorf("reserve %d bytes: %w", size, err), f.Truncate(0))
		}
		actual = size
	}
	if size > 0 && actual != size {
		return nil, fmt.Errorf("the file has %d bytes, asked for were %d: remove it, or ask for its size", actual, size)
	}
	if err := checkFileSize(actual, slotSize); err != nil {
		return nil, err
	}
	h, err := readHeader(f, actual)
	if err == nil && h.slotSize != slotSize {
		err = fmt.Errorf("%w: slots of %d bytes, now needed are %d", errHeader, h.slotSize, slotSize)
	}
	if errors.Is(err, ErrBlank) || errors.Is(err, errHeader) {
		h, err = format(f, actual, slotSize, err, log)
	}
	if err != nil {
		return nil, err
	}
	st := newFileStore(f, h)
	c := newCache(st, h.slots, h.slotSize, log)
	if err := c.load(st); err != nil {
		return nil, err
	}
	return c, nil
}

// checkFileSize returns an error unless size bytes are enough for a cache.
func checkFileSize(size int64, slotSize int) error {
	least := dataOffset(MinSlots) + MinSlots*int64(slotSize)
	switch n := slotsIn(size, slotSize); {
	case n < MinSlots:
		return fmt.Errorf("%d bytes are too few: a cache with slots of %d bytes needs at least %d", size, slotSize, least)
	case n > maxSlots:
		return fmt.Errorf("%d bytes are too many: a cache has at most %d slots of %d bytes", size, int64(maxSlots), slotSize)
	}
	return nil
}

// openFile opens path. With size > 0 a missing file is made, of no length yet.
func openFile(path string, size int64) (*os.File, error) {
	if err := checkKind(path); err != nil {
		return nil, err
	}
	flags := os.O_RDWR
	if size > 0 {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) && size == 0 {
		return nil, fmt.Errorf("%w: make it first, its size is the capacity, or give a size to have it made", cause(err))
	}
	return f, cause(err)
}

// cause is err without the path, which the callers' errors have already.
func cause(err error) error {
	if at := (*fs.PathError)(nil); errors.As(err, &at) {
		return at.Err
	}
	return err
}

// checkKind refuses what cannot be a cache. Opening it could do harm by itself: a named pipe waits for its other end.
func checkKind(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() && info.Mode().Type() != fs.ModeDevice {
		return errors.New("neither a file nor a block device")
	}
	return nil // a missing file is for the opening to report
}

// fileSize is the length of a file or a block device.
func fileSize(f *os.File) (int64, error) {
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("find its size: %w", err)
	}
	return n, nil
}

// readHeader reads the header of a file of size bytes. It fails with ErrForeign, ErrBlank, errHeader when the file is a
// cache that cannot be used as it is, or the error of a failed read.
func readHeader(f *os.File, size int64) (header, error) {
	page := make([]byte, headerSize)
	if _, err := f.ReadAt(page, 0); err != nil && !errors.Is(err, io.EOF) {
		return header{}, fmt.Errorf("read header: %w", err)
	}
	h, err := decodeHeader(page)
	switch {
	case errors.Is(err, errMagic):
		return header{}, blankOrForeign(f, size)
	case err != nil:
		return header{}, fmt.Errorf("%w: %w", errHeader, err)
	case h.fileSize != size:
		return header{}, fmt.Errorf("%w: made for %d bytes, the file has %d", errHeader, h.fileSize, size)
	}
	return h, nil
}

// blankOrForeign tells a file of zeros from one with someone's data. Zeros at the start say little (an ISO image has 32
// KiB of them, a btrfs 64), so it looks at the first and the last MiB and at a thousand places between, which is as good
// as certain and takes the same short time for any size.
func blankOrForeign(f *os.File, size int64) error {
	const edge, samples = 1 << 20, 1000
	buf := make([]byte, edge)
	look := func(off int64, n int) error {
		n, err := f.ReadAt(buf[:n], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("see whether it is empty: %w", err)
		}
		if !allZero(buf[:n]) {
			return fmt.Errorf("%w: it was left alone; name another file, or remove this one if nobody needs it", ErrForeign)
		}
		return nil
	}
	for i := range int64(samples) {
		if err := look(size/samples*i, headerSize); err != nil {
			return err
		}
	}
	if err := look(0, edge); err != nil {
		return err
	}
	if err := look(max(0, size-edge), edge); err != nil {
		return err
	}
	return ErrBlank
}

// format makes an empty cache of f, which is a blank or invalid one, and says why.
func format(f *os.File, size int64, slotSize int, why error, log *slog.Logger) (header, error) {
	h := header{slotSize: slotSize, slots: uint32(slotsIn(size, slotSize)), fileSize: size}
	rand.Read(h.id[:])
	if errors.Is(why, ErrBlank) {
		log.Info("cache file formatted", "slots", h.slots, "slot_bytes", slotSize)
	} else {
		log.Warn("cache file cannot be used as it is; formatted anew, all entries are gone", "reason", why,
			"slots", h.slots, "slot_bytes", slotSize)
		buf := make([]byte, 1<<20)
		end := dataOffset(int64(h.slots))
		for at := int64(headerSize); at < end; at += int64(len(buf)) {
			if _, err := f.WriteAt(buf[:min(int64(len(buf)), end-at)], at); err != nil {
				return header{}, fmt.Errorf("clear table: %w", err)
			}
		}
	}
	page := make([]byte, headerSize)
	h.encode(page)
	if _, err := f.WriteAt(page, 0); err != nil {
		return header{}, fmt.Errorf("write header: %w", err)
	}
	// The header must be on the disk before data is: after a power cut, data behind a page of zeros would be foreign.
	if err := f.Sync(); err != nil {
		return header{}, fmt.Errorf("write header: %w", err)
	}
	return h, nil
}

// load fills the index and the queues with what the table says, in the order in which it was written.
func (c *Cache) load(st *fileStore) error {
	type found struct {
		seq  uint64
		slot uint32
	}
	var entries []found
	damaged := 0
	err := st.readTable(func(i uint32, r record, err error) {
		if err != nil {
			damaged++
			return
		}
		entries = append(entries, found{r.seq, i})
		s := &c.slots[i]
		s.key, s.length, s.reads = r.key, r.length, r.reads
		s.freq = r.reads / maxReads
	})
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b found) int {
		return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.slot, b.slot))
	})
	for _, e := range entries {
		s := &c.slots[e.slot]
		// Two slots of one key: the process was killed while it replaced the older.
		if older, twice := c.find(&s.key); twice {
			c.removeLocked(older)
			c.stats.Used--
			c.stats.Bytes -= int64(c.slots[older].length)
		}
		key := s.key
		c.add(e.slot, &key)
		c.push(c.queue(s.reads), e.slot)
		s.state = live
		c.stats.Used++
		c.stats.Bytes += int64(s.length)
		c.seq = e.seq
		c.fresh = max(c.fresh, e.slot+1)
	}
	for i := range c.fresh {
		if c.slots[i].state == empty {
			c.push(&c.free, i)
		}
	}
	c.stats.Recovered = uint64(c.stats.Used)
	if len(entries)+damaged > 0 {
		c.log.Info("cache file opened", "entries", c.stats.Used, "slots", len(c.slots), "damaged_records", damaged)
	}
	return nil
}
