package overlay

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/dnbd/dnbd/block"
)

// stored is what an overlay's file holds.
type stored struct {
	header header // the one that counts
	place  int    // of that header, 0 or 1
	seq    uint64 // the highest sequence number seen
	states states
	pages  []page
	// stale has the pages of which one place has to be written: it is torn, newer than the header that counts, or the live map
	// has something else.
	stale map[int64]struct{}
	// liveStale has the pages whose live states are not those that count.
	liveStale []int64
	// resumed says that the states are those of the live map, wasOpen that the file was not closed as it should.
	resumed, wasOpen bool
	// new says that the file holds nothing yet, not even space for headers.
	new bool
	// faults is what is wrong with the metadata, whether or not there is another copy.
	faults []Fault
}

// Fault is a place in an overlay's file that is not as its checksum says.
type Fault struct {
	Offset int64  `json:"offset"` // in bytes
	What   string `json:"what"`
}

// DamageError is the error of an overlay whose metadata cannot be used. It wraps ErrDamaged.
type DamageError struct{ Faults []Fault }

// Error names the first faults.
func (e *DamageError) Error() string {
	text := ErrDamaged.Error()
	for i, f := range e.Faults {
		if i == maxNamed {
			return fmt.Sprintf("%s; and %d more", text, len(e.Faults)-i)
		}
		text += fmt.Sprintf("; at byte %d: %s", f.Offset, f.What)
	}
	return text
}

// Unwrap returns ErrDamaged.
func (e *DamageError) Unwrap() error { return ErrDamaged }

// maxNamed is how many faults an error names.
const maxNamed = 3

// newStored is an overlay of is that holds nothing. Its second header counts, so that the first one is written first.
func newStored(is Base) *stored {
	f := &stored{
		header: header{base: is, created: time.Now()},
		place:  1,
		new:    true,
		states: newStates(pages(is.Size)),
		pages:  make([]page, pages(is.Size)),
		stale:  map[int64]struct{}{},
	}
	rand.Read(f.header.file[:])
	for p := range f.pages {
		f.pages[p].active = -1
	}
	return f
}

// load reads the metadata of an overlay. The file is nil when scratch begins with zeroes. boot is the id of the machine's
// start, or zero where there is none.
func load(ctx context.Context, scratch block.Device, boot [bootSize]byte) (*stored, error) {
	found, faults, err := readHeaders(ctx, scratch)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	// A header whose pages did not all arrive is one of a flush that was cut short: the one before counts.
	for i, c := range found {
		f, err := loadPages(ctx, scratch, c.header)
		if err != nil {
			return nil, err
		}
		if f.total() != c.header.sum {
			faults = append(faults, f.faults...)
			faults = append(faults, Fault{int64(c.place) * headerSize, "the map is not the one that this header was written with"})
			continue
		}
		newest := found[0].header
		f.place, f.seq = c.place, max(f.seq, newest.seq)
		f.faults = append(faults, f.faults...)
		f.wasOpen = i > 0 || c.header.open
		if newest.open && newest.boot == boot && boot != [bootSize]byte{} {
			err = f.resume(ctx, scratch)
		} else {
			err = f.compareLive(ctx, scratch)
		}
		return f, err
	}
	return nil, &DamageError{faults}
}

// placed is a header and where it was found.
type placed struct {
	header *header
	place  int
}

// readHeaders reads the headers, and returns those that are whole, the newest first. There are none, and no error, where all
// is zero.
func readHeaders(ctx context.Context, scratch block.Device) (found []placed, faults []Fault, err error) {
	if scratch.Size() < headers*headerSize {
		return nil, nil, fmt.Errorf("%w: it has %d bytes", ErrFormat, scratch.Size())
	}
	b := make([]byte, headers*headerSize)
	if err := scratch.ReadAt(ctx, b, 0); err != nil {
		return nil, nil, fmt.Errorf("read the overlay's headers: %w", err)
	}
	var first error
	empty := true
	for place := range headers {
		b := b[place*headerSize:][:headerSize]
		if allZero(b) {
			continue // not written yet
		}
		empty = false
		h, err := decodeHeader(b)
		if err != nil {
			first = cmp.Or(first, err)
			faults = append(faults, Fault{int64(place) * headerSize, err.Error()})
			continue
		}
		found = append(found, placed{h, place})
	}
	if len(found) == 0 && !empty {
		return nil, nil, first
	}
	slices.SortFunc(found, func(a, b placed) int { return cmp.Compare(b.header.seq, a.header.seq) })
	if len(found) == headers && found[0].header.file != found[1].header.file {
		return nil, nil, &DamageError{[]Fault{{0, "its headers are of different overlays"}}}
	}
	return found, faults, nil
}

// loadPages reads the map as h knows it: of each page the newest that is not newer than h.
func loadPages(ctx context.Context, scratch block.Device, h *header) (*stored, error) {
	n := pages(h.base.Size)
	if have := scratch.Size(); have != Size(h.base.Size) {
		return nil, &DamageError{[]Fault{{have, fmt.Sprintf("it ends here, and should have %d bytes", Size(h.base.Size))}}}
	}
	f := &stored{header: *h, seq: h.seq, states: newStates(n), pages: make([]page, n), stale: map[int64]struct{}{}}
	b := make([]byte, livePlace*pageSize)
	for p := range n {
		if err := scratch.ReadAt(ctx, b, pageOffset(p, 0)); err != nil {
			return nil, fmt.Errorf("read the overlay's map: %w", err)
		}
		f.takePage(p, b)
	}
	return f, nil
}

// takePage takes in the two places of a page.
func (f *stored) takePage(p int64, b []byte) {
	f.pages[p].active = -1
	var active uint64
	for place := range livePlace {
		b := b[place*pageSize:][:pageSize]
		if allZero(b) {
			continue // not written yet
		}
		f.pages[p].reserved = true
		seq, sum, ok := decodePage(f.header.file, p, b)
		if !ok {
			f.stale[p] = struct{}{}
			f.faults = append(f.faults, Fault{pageOffset(p, place), fmt.Sprintf("page %d of the map does not match its checksum", p)})
			continue
		}
		f.seq = max(f.seq, seq)
		switch {
		case seq > f.header.seq:
			f.stale[p] = struct{}{}
		case f.pages[p].active < 0 || seq > active:
			f.pages[p].active, f.pages[p].sum, active = place, sum, seq
		}
	}
	counts := f.pages[p].active
	if counts < 0 {
		return
	}
	if !f.states.decode(p, b[counts*pageSize+pageStates:][:pageBlocks/4], blocks(f.header.base.Size)) {
		// Its checksum is right, so nobody wrote it by accident. The sum that is wrong now tells of it.
		f.pages[p].sum++
		f.faults = append(f.faults, Fault{pageOffset(p, counts), fmt.Sprintf("page %d of the map has states that there are not", p)})
	}
}

// total is the sum of the checksums of all pages.
func (f *stored) total() (sum uint64) {
	for i := range f.pages {
		if f.pages[i].active >= 0 {
			sum += f.pages[i].sum
		}
	}
	return sum
}

// resume takes the states of the live map, which counts.
func (f *stored) resume(ctx context.Context, scratch block.Device) error {
	f.resumed = true
	return f.eachLive(ctx, scratch, func(p int64, live []byte) error {
		if !f.states.decode(p, live, blocks(f.header.base.Size)) {
			what := fmt.Sprintf("page %d of the live map has states that there are not", p)
			return &DamageError{[]Fault{{pageOffset(p, livePlace), what}}}
		}
		f.pages[p].reserved = true
		f.stale[p] = struct{}{}
		return nil
	})
}

// compareLive notes where the live map has to be written anew.
func (f *stored) compareLive(ctx context.Context, scratch block.Device) error {
	return f.eachLive(ctx, scratch, func(p int64, _ []byte) error {
		f.pages[p].reserved = true
		f.liveStale = append(f.liveStale, p)
		return nil
	})
}

// eachLive calls g with the live states of each page where they are not those of f.
func (f *stored) eachLive(ctx context.Context, scratch block.Device, g func(p int64, live []byte) error) error {
	b := make([]byte, pageBlocks/4)
	for p := range int64(len(f.pages)) {
		if err := scratch.ReadAt(ctx, b, pageOffset(p, livePlace)+pageStates); err != nil {
			return fmt.Errorf("read the overlay's live map: %w", err)
		}
		if bytes.Equal(b, f.states.encode(p)) {
			continue
		}
		if err := g(p, b); err != nil {
			return err
		}
	}
	return nil
}

// zeroes is what was not written yet.
var zeroes [headerSize]byte

func allZero(b []byte) bool { return bytes.Equal(b, zeroes[:len(b)]) }
