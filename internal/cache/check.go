package cache

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/dnbd/dnbd/internal/blake3"
	"github.com/dnbd/dnbd/internal/flock"
)

// Summary is what a cache file's header and table say.
type Summary struct {
	Path           string `json:"path"`
	ID             string `json:"id"`              // random, new with each formatting
	Version        int    `json:"version"`         // of the format
	FileSize       int64  `json:"file_size"`       // in bytes
	SlotSize       int    `json:"slot_size"`       // in bytes
	Slots          int    `json:"slots"`           // capacity, in entries
	Used           int    `json:"used"`            // entries held
	Unread         int    `json:"unread"`          // of these, overheard and never read
	Bytes          int64  `json:"bytes"`           // the sum of the entries' lengths
	DamagedRecords int    `json:"damaged_records"` // slots whose record cannot be read
	HeldBy         int    `json:"held_by"`         // the process that has the file open, 0 when there is none
}

// Fault is a slot whose bytes are not those that its record promises.
type Fault struct {
	Slot   int    `json:"slot"`
	Offset int64  `json:"offset"` // of the slot in the file
	Why    string `json:"why"`
}

// Report is what Check found. Good, Bad and Empty add up to the number of slots; HeldBy is 0.
type Report struct {
	Summary
	Good   int     `json:"good"`
	Bad    int     `json:"bad"`
	Empty  int     `json:"empty"`
	Faults []Fault `json:"faults"` // the first 100 bad ones, damaged records included
}

// maxFaults bounds Report.Faults.
const maxFaults = 100

// Info reads the header and the table of the cache file at path. It changes nothing and may run while the file is in use,
// when a record that is just being written may count as a damaged one.
func Info(path string) (_ Summary, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read cache %s: %w", path, err)
		}
	}()
	st, err := openReadOnly(path)
	if err != nil {
		return Summary{}, err
	}
	defer st.close()
	sum, err := summarize(st, func(uint32, record, error) {})
	sum.HeldBy = flock.Holder(st.f)
	return sum, err
}

// Check reads every entry of the cache file at path and compares it with its hash. It changes nothing. It fails with
// ErrInUse while the file is in use, and keeps others from using it meanwhile. progress, which may be nil, is told how
// many of how many bytes of entries were read; total stays the same.
func Check(ctx context.Context, path string, progress func(done, total int64)) (_ Report, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("check cache %s: %w", path, err)
		}
	}()
	st, err := openReadOnly(path)
	if err != nil {
		return Report{}, err
	}
	defer st.close()
	if err := lock(st.f, false); err != nil {
		return Report{}, err
	}
	rep := Report{Faults: []Fault{}}
	rep.Summary, err = summarize(st, func(slot uint32, _ record, err error) {
		if err != nil {
			rep.fault(st, slot, err)
		}
	})
	if err != nil {
		return Report{}, err
	}
	buf := make([]byte, st.header.slotSize)
	var done int64
	tableErr := st.readTable(func(slot uint32, r record, err error) {
		if err != nil || ctx.Err() != nil {
			return
		}
		b := buf[:r.length]
		if err := st.read(slot, b, 0); err != nil {
			rep.fault(st, slot, err)
		} else if blake3.Sum256(b) != r.key {
			rep.fault(st, slot, errHash)
		} else {
			rep.Good++
		}
		done += int64(len(b))
		if progress != nil {
			progress(done, rep.Bytes)
		}
	})
	if err := errors.Join(tableErr, ctx.Err()); err != nil {
		return Report{}, err
	}
	rep.Empty = rep.Slots - rep.Good - rep.Bad
	return rep, nil
}

// fault counts a bad slot.
func (r *Report) fault(st *fileStore, slot uint32, why error) {
	r.Bad++
	if len(r.Faults) < maxFaults {
		r.Faults = append(r.Faults, Fault{Slot: int(slot), Offset: st.offset(slot), Why: why.Error()})
	}
}

// openReadOnly opens the cache file at path for reading, without its lock.
func openReadOnly(path string) (*fileStore, error) {
	if err := checkKind(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, cause(err)
	}
	size, err := fileSize(f)
	if err == nil {
		var h header
		if h, err = readHeader(f, size); err == nil {
			return newFileStore(f, h), nil
		}
	}
	f.Close()
	return nil, err
}

// summarize reads the table, which it also shows to each.
func summarize(st *fileStore, each func(uint32, record, error)) (Summary, error) {
	sum := Summary{
		Path:     st.f.Name(),
		ID:       hex.EncodeToString(st.header.id[:]),
		Version:  version,
		FileSize: st.header.fileSize,
		SlotSize: st.header.slotSize,
		Slots:    int(st.header.slots),
	}
	err := st.readTable(func(slot uint32, r record, err error) {
		each(slot, r, err)
		if err != nil {
			sum.DamagedRecords++
			return
		}
		sum.Used++
		sum.Bytes += int64(r.length)
		if r.reads == 0 {
			sum.Unread++
		}
	})
	return sum, err
}
