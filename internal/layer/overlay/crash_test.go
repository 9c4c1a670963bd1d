package overlay

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
)

const (
	sector = 512
	// small is the size of the devices that are crashed.
	small = 64<<10 + sector
)

// recorder is a disk that writes down what was asked of it.
type recorder struct {
	*blocktest.Disk
	ops []op
}

// op is a change of a disk, or a flush, which has no bytes.
type op struct {
	off   int64
	bytes []byte
	flush bool
}

func (r *recorder) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	r.ops = append(r.ops, op{off: off, bytes: bytes.Clone(p)})
	if fua {
		r.ops = append(r.ops, op{flush: true}) // it keeps more than was asked for, which the overlay must not need
	}
	return r.Disk.WriteAt(ctx, p, off, fua)
}

func (r *recorder) Trim(ctx context.Context, off, n int64, fua bool) error {
	r.ops = append(r.ops, op{off: off, bytes: make([]byte, n)})
	return r.Disk.Trim(ctx, off, n, fua)
}

func (r *recorder) Flush(ctx context.Context) error {
	r.ops = append(r.ops, op{flush: true})
	return r.Disk.Flush(ctx)
}

// request is a change of the device, or a flush, which has no bytes. It made the disk's operations from first to before end.
type request struct {
	first, end int
	off        int64
	bytes      []byte
	forced     bool // when it has ended it is on stable storage
}

// history is what was done to a device over base.
type history struct {
	base     []byte
	requests []request
}

// after returns what each sector may hold when the machine has crashed after so many operations of the disk: first what is
// on stable storage. With all nothing is lost that was answered.
func (h *history) after(ops int, all bool) [][][]byte {
	may := make([][][]byte, len(h.base)/sector)
	for i := range may {
		may[i] = [][]byte{h.base[i*sector:][:sector]}
	}
	for _, r := range h.requests {
		if r.first >= ops {
			break
		}
		forget := (r.forced || all) && r.end <= ops
		for i := range may {
			at := int64(i*sector) - r.off
			if r.bytes != nil && (at < 0 || at >= int64(len(r.bytes))) {
				continue
			}
			if r.bytes != nil {
				may[i] = append(may[i], r.bytes[at:][:sector])
			}
			if forget {
				may[i] = may[i][len(may[i])-1:]
			}
		}
	}
	return may
}

// check checks that every sector holds what it may.
func check(t *testing.T, d block.Device, may [][][]byte, what string, args ...any) {
	t.Helper()
	got := make([]byte, len(may)*sector)
	must(t, d.ReadAt(t.Context(), got, 0))
	for i, m := range may {
		if !slices.ContainsFunc(m, func(p []byte) bool { return bytes.Equal(p, got[i*sector:][:sector]) }) {
			t.Errorf("sector %d holds what was never there, or what should be gone:", i)
			t.Fatalf(what, args...)
		}
	}
}

// workload makes random requests of devices over a base, one after the other on one disk, which it returns with their history.
func workload(t *testing.T, seed uint64, n int) (*recorder, *history) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	ctx := t.Context()
	h := &history{base: make([]byte, small)}
	rand.NewChaCha8([32]byte{byte(seed)}).Read(h.base)
	disk := &recorder{Disk: blocktest.NewDisk(Size(small))}
	for reopened := range 3 {
		d, err := open(ctx, blocktest.NewMemory(h.base), disk, of(small), [bootSize]byte{byte(reopened + 1)})
		must(t, err)
		for range n {
			r := request{first: len(disk.ops), forced: rng.IntN(4) == 0}
			first := rng.IntN(small / sector)
			length := (rng.IntN(min(small/sector-first, 20)) + 1) * sector
			r.off = int64(first * sector)
			switch rng.IntN(6) {
			case 0:
				r.forced, r.off = true, 0
				must(t, d.Flush(ctx))
			case 1:
				r.bytes = make([]byte, length)
				must(t, d.WriteZeroes(ctx, r.off, int64(length), rng.IntN(4) > 0, false, r.forced))
			case 2:
				whole, _ := d.split(r.off, int64(length))
				must(t, d.Trim(ctx, r.off, int64(length), r.forced))
				r.off, r.bytes = whole.off, make([]byte, whole.n)
			default:
				r.bytes = bytes.Repeat([]byte{byte(rng.Uint32())}, length)
				for i := range length / sector {
					r.bytes[i*sector] = byte(rng.Uint32()) // each sector differs
				}
				must(t, d.WriteAt(ctx, r.bytes, r.off, r.forced))
			}
			r.end = len(disk.ops)
			h.requests = append(h.requests, r)
		}
		r := request{first: len(disk.ops), forced: true}
		must(t, d.Close())
		r.end = len(disk.ops)
		h.requests = append(h.requests, r)
		disk.Crash(func() bool { return true }) // only opens it again
	}
	return disk, h
}

// diskOf returns a disk that holds p.
func diskOf(t *testing.T, p []byte) *blocktest.Disk {
	t.Helper()
	d := blocktest.NewDisk(int64(len(p)))
	must(t, d.WriteAt(t.Context(), p, 0, true))
	return d
}

// The power is cut at every write. What was not flushed is lost, or there, or any of it is, each write or only sectors of it.
func TestWhatWasFlushedOutlivesAPowerCutAtAnyWrite(t *testing.T) {
	for seed := range uint64(2) {
		disk, h := workload(t, seed, 25)
		rng := rand.New(rand.NewPCG(seed, 2))
		stable := make([]byte, Size(small))
		var pending []op
		for cut := range len(disk.ops) + 1 {
			may := h.after(cut, false)
			for v, survives := range survivors(len(pending), rng) {
				p := bytes.Clone(stable)
				for i, o := range pending {
					for at := 0; at < len(o.bytes); at += sector {
						if survives(i) {
							copy(p[o.off+int64(at):], o.bytes[at:min(at+sector, len(o.bytes))])
						}
					}
				}
				d, err := open(t.Context(), blocktest.NewMemory(h.base), diskOf(t, p), of(small), otherStart)
				if err != nil {
					t.Fatalf("seed %d, cut before operation %d, variant %d: %v", seed, cut, v, err)
				}
				check(t, d, may, "seed %d, cut before operation %d, variant %d", seed, cut, v)
			}
			if cut == len(disk.ops) {
				break
			}
			o := disk.ops[cut]
			if !o.flush {
				pending = append(pending, o)
				continue
			}
			for _, o := range pending {
				copy(stable[o.off:], o.bytes)
			}
			pending = nil
		}
		if cuts := len(disk.ops); cuts < 200 {
			t.Errorf("seed %d has %d operations only", seed, cuts)
		}
	}
}

// survivors says which of n writes survive, in several variants: all, none, each alone, all but one, and sectors by chance.
func survivors(n int, rng *rand.Rand) []func(i int) bool {
	list := []func(i int) bool{
		func(int) bool { return true },
		func(int) bool { return false },
		func(int) bool { return rng.IntN(2) == 0 },
		func(int) bool { return rng.IntN(8) == 0 },
		func(int) bool { return rng.IntN(8) > 0 },
	}
	for k := range n {
		list = append(list, func(i int) bool { return i == k }, func(i int) bool { return i != k })
	}
	return list
}

// The process is killed at every write. Nothing that was answered is lost.
func TestWhatWasAnsweredOutlivesAKillAtAnyWrite(t *testing.T) {
	disk, h := workload(t, 5, 30)
	now := make([]byte, Size(small))
	for cut := range len(disk.ops) + 1 {
		may := h.after(cut, true)
		d, err := open(t.Context(), blocktest.NewMemory(h.base), diskOf(t, now), of(small), startOf(t, now))
		if err != nil {
			t.Fatalf("killed before operation %d: %v", cut, err)
		}
		check(t, d, may, "killed before operation %d", cut)
		if cut < len(disk.ops) && !disk.ops[cut].flush {
			copy(now[disk.ops[cut].off:], disk.ops[cut].bytes)
		}
	}
}

// startOf is the start of the machine that a file says it is used since.
func startOf(t *testing.T, p []byte) [bootSize]byte {
	t.Helper()
	found, _, err := readHeaders(t.Context(), blocktest.NewMemory(p))
	must(t, err)
	if len(found) == 0 {
		return thisStart
	}
	return found[0].header.boot
}

// Crashes follow one another, so that they hit what an opening repairs, too.
func TestWhatWasFlushedOutlivesManyCrashes(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 1))
		base := make([]byte, small)
		rand.NewChaCha8([32]byte{byte(seed)}).Read(base)
		disk := blocktest.NewDisk(Size(small))
		may := make([][][]byte, small/sector)
		for i := range may {
			may[i] = [][]byte{base[i*sector:][:sector]}
		}
		for crash := range 6 {
			d := opened(t, base, disk, [bootSize]byte{byte(crash + 1)})
			check(t, d, may, "seed %d, crash %d", seed, crash)
			got := make([]byte, small)
			must(t, d.ReadAt(t.Context(), got, 0))
			for i := range may {
				// What the crash left unflushed is there now, but may be lost by the next one.
				may[i] = append(slices.DeleteFunc(may[i], func(p []byte) bool { return bytes.Equal(p, got[i*sector:][:sector]) }),
					got[i*sector:][:sector])
			}
			for range rng.IntN(12) {
				if rng.IntN(6) == 0 {
					must(t, d.Flush(t.Context()))
					for i, m := range may {
						may[i] = m[len(m)-1:]
					}
					continue
				}
				first := rng.IntN(len(may))
				n := rng.IntN(min(len(may)-first, 20)) + 1
				fua := rng.IntN(3) == 0
				p := make([]byte, n*sector)
				if rng.IntN(4) == 0 {
					must(t, d.WriteZeroes(t.Context(), int64(first*sector), int64(len(p)), true, false, fua))
				} else {
					for i := range p {
						p[i] = byte(rng.Uint32())
					}
					must(t, d.WriteAt(t.Context(), p, int64(first*sector), fua))
				}
				for i := range n {
					m := append(may[first+i], p[i*sector:][:sector])
					if fua {
						m = m[len(m)-1:]
					}
					may[first+i] = m
				}
			}
			disk.Crash(func() bool { return rng.IntN(2) == 0 })
		}
	}
}
