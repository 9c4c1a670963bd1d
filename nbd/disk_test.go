package nbd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// page is the size in bytes in which a disk knows what is allocated.
const page = 4096

// disk is a device in memory that can do everything, and tells what it was asked.
type disk struct {
	mu    sync.Mutex
	b     []byte
	data  []bool // by page: it was written to
	calls []string
}

func newDisk(size int) *disk {
	return &disk{b: make([]byte, size), data: make([]bool, (size+page-1)/page)}
}

// noteLocked adds a line to the calls. mu is held.
func (d *disk) noteLocked(format string, args ...any) {
	d.calls = append(d.calls, fmt.Sprintf(format, args...))
}

// last is the last call, or empty.
func (d *disk) last() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.calls) == 0 {
		return ""
	}
	return d.calls[len(d.calls)-1]
}

// log are the calls.
func (d *disk) log() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// forget makes last empty.
func (d *disk) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = nil
}

// text is n of the disk's bytes.
func (d *disk) text(off, n int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return string(d.b[off : off+n])
}

func (d *disk) Size() int64 { return int64(len(d.b)) }

func (d *disk) ReadAt(_ context.Context, p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(p, d.b[off:off+int64(len(p))])
	return nil
}

func (d *disk) WriteAt(_ context.Context, p []byte, off int64, fua bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noteLocked("write %d at %d fua %v", len(p), off, fua)
	copy(d.b[off:off+int64(len(p))], p)
	for i := off / page; i <= (off+int64(len(p))-1)/page; i++ {
		d.data[i] = true
	}
	return nil
}

func (d *disk) Flush(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noteLocked("flush")
	return nil
}

func (d *disk) Trim(_ context.Context, off, n int64, fua bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noteLocked("trim %d at %d fua %v", n, off, fua)
	d.punchLocked(off, n)
	return nil
}

func (d *disk) WriteZeroes(_ context.Context, off, n int64, hole, fast, fua bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noteLocked("zero %d at %d hole %v fast %v fua %v", n, off, hole, fast, fua)
	if fast && off%page != 0 {
		return fmt.Errorf("zero %d at %d quickly: %w", n, off, errors.ErrUnsupported)
	}
	clear(d.b[off : off+n])
	if hole {
		d.punchLocked(off, n)
	}
	return nil
}

// punchLocked forgets the pages within a range.
func (d *disk) punchLocked(off, n int64) {
	for i := (off + page - 1) / page; i < (off+n)/page; i++ {
		clear(d.b[i*page : (i+1)*page])
		d.data[i] = false
	}
}

func (d *disk) Prefetch(_ context.Context, off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noteLocked("prefetch %d at %d", n, off)
	return nil
}

// Extents tells each page as an extent of its own.
func (d *disk) Extents(_ context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for end := off + n; off < end; {
		next := min(off/page*page+page, d.Size())
		data := d.data[off/page]
		if !yield(next-off, !data, !data) {
			return nil
		}
		off = next
	}
	return nil
}

// plain is a device that can be read and written, and no more.
type plain struct{ d *disk }

func (p plain) Size() int64 { return p.d.Size() }

func (p plain) ReadAt(ctx context.Context, b []byte, off int64) error { return p.d.ReadAt(ctx, b, off) }

func (p plain) WriteAt(ctx context.Context, b []byte, off int64, fua bool) error {
	return p.d.WriteAt(ctx, b, off, fua)
}
