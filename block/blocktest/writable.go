package blocktest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/dnbd/dnbd/block"
)

// ConformWritable checks that the devices that open returns keep the promises of block.Writer, and of the other
// capabilities that they have. It runs Conform too. Each device that open returns is a new one of at least 64 KiB, better
// some MiB and a few bytes, with any contents, the same each time. ConformWritable closes what it opened.
func ConformWritable(t *testing.T, open func(t *testing.T) block.Device) {
	t.Helper()
	ctx := context.Background()

	first := open(t)
	contents := make([]byte, first.Size())
	if err := first.ReadAt(ctx, contents, 0); err != nil {
		t.Fatalf("read it all: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if block.Has(first)&block.CanWrite == 0 {
		t.Fatalf("%T cannot be written to", first)
	}
	size := int64(len(contents))
	Conform(t, contents, open)

	t.Run("requests in any order", func(t *testing.T) {
		for seed := range uint64(3) {
			d := open(t)
			m := newModel(d, bytes.Clone(contents), 0, seed)
			for range 200 {
				m.step(t)
			}
			m.check(t)
			d.Close()
		}
	})
	t.Run("all at once", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		w := d.(block.Writer)
		all := make([]byte, size)
		fill(all, rand.New(rand.NewPCG(5, 6)))
		if err := w.WriteAt(ctx, all, 0, true); err != nil {
			t.Fatalf("WriteAt: %v", err)
		}
		m := &model{d: d, bytes: all}
		m.check(t)
		z, ok := d.(block.Zeroer)
		if !ok {
			return
		}
		if err := z.WriteZeroes(ctx, 0, size, true, false, true); err != nil {
			t.Fatalf("WriteZeroes: %v", err)
		}
		clear(all)
		m.check(t)
	})
	t.Run("zeroes are fast or refused", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		z, ok := d.(block.Zeroer)
		if !ok {
			return
		}
		m := &model{d: d, bytes: bytes.Clone(contents)}
		for _, hole := range []bool{false, true} {
			switch err := z.WriteZeroes(ctx, 100, size/2, hole, true, false); {
			case err == nil:
				clear(m.bytes[100 : 100+size/2])
			case !errors.Is(err, errors.ErrUnsupported):
				t.Errorf("WriteZeroes, fast, hole=%v: %v, want nil or errors.ErrUnsupported", hole, err)
			}
		}
		m.check(t)
	})
	t.Run("neighbours do not harm each other", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		// Each writes to its own share alone, but shares have blocks in common.
		const writers = 8
		share := size/writers | 1
		var wg sync.WaitGroup
		var models []*model
		for i := range int64(writers) {
			from := min(i*share, size)
			to := min(from+share, size)
			m := newModel(d, bytes.Clone(contents[from:to]), from, uint64(i))
			models = append(models, m)
			wg.Go(func() {
				for range 60 {
					m.step(t)
				}
			})
		}
		wg.Wait()
		for _, m := range models {
			m.check(t)
		}
	})
	t.Run("neighbours within a block", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		w := d.(block.Writer)
		want := bytes.Clone(contents)
		var wg sync.WaitGroup
		const writers, piece = 16, 100
		for i := range writers {
			wg.Go(func() {
				for at := i * piece; at+piece <= 64<<10; at += writers * piece {
					p := bytes.Repeat([]byte{byte(i + 1)}, piece)
					if err := w.WriteAt(ctx, p, int64(at), false); err != nil {
						t.Errorf("WriteAt: %v", err)
					}
					copy(want[at:], p)
				}
			})
		}
		wg.Wait()
		(&model{d: d, bytes: want}).check(t)
	})
	t.Run("requests that change nothing", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		m := &model{d: d, bytes: contents}
		for _, off := range []int64{0, 1, size} {
			for name, err := range requests(ctx, d, off, 0, true) {
				if err != nil {
					t.Errorf("%s(%d, 0): %v", name, off, err)
				}
			}
		}
		for _, c := range beyond(size) {
			for name, err := range requests(ctx, d, c.off, c.n, true) {
				if !errors.Is(err, block.ErrRange) {
					t.Errorf("%s(%d, %d) = %v, want ErrRange", name, c.off, c.n, err)
				}
			}
		}
		m.check(t)
		if d.Size() != size {
			t.Errorf("Size() = %d after writes beyond the end, want %d", d.Size(), size)
		}
	})
	t.Run("changes to a closed device", func(t *testing.T) {
		d := open(t)
		d.Close()
		for name, err := range requests(ctx, d, 0, 1, true) {
			if !errors.Is(err, block.ErrClosed) {
				t.Errorf("%s after Close = %v, want ErrClosed", name, err)
			}
		}
		if f, ok := d.(block.Flusher); ok {
			if err := f.Flush(ctx); !errors.Is(err, block.ErrClosed) {
				t.Errorf("Flush after Close = %v, want ErrClosed", err)
			}
		}
	})
	t.Run("an ended context", func(t *testing.T) {
		d := open(t)
		defer d.Close()
		ended, end := context.WithCancel(ctx)
		end()
		for name, err := range requests(ended, d, 0, 1, true) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s with an ended context = %v, want context.Canceled", name, err)
			}
		}
	})
}

// longest is the most bytes that a model asks for at once.
const longest = 80_000

// model is what a part of a device has to hold after random requests.
type model struct {
	d     block.Device
	base  int64 // offset of the part in the device
	bytes []byte
	any   []bool // bytes that may read as anything, since they were trimmed; may be nil
	rng   *rand.Rand
}

func newModel(d block.Device, contents []byte, base int64, seed uint64) *model {
	return &model{d: d, base: base, bytes: contents, any: make([]bool, len(contents)), rng: rand.New(rand.NewPCG(seed, 11))}
}

// step makes one random request.
func (m *model) step(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	from := m.rng.IntN(len(m.bytes))
	n := m.rng.IntN(min(len(m.bytes)-from, longest) + 1)
	if m.rng.IntN(2) == 0 {
		// Whole blocks are what most users ask for.
		from &^= 4095
		n = min((n+4095)&^4095, len(m.bytes)-from)
	}
	if m.rng.IntN(3) == 0 {
		n = min(n, 5000)
	}
	off, to, fua := m.base+int64(from), from+n, m.rng.IntN(4) == 0

	var name string
	var err error
	switch op := m.rng.IntN(10); op {
	case 0, 1, 2, 3:
		name = "WriteAt"
		p := make([]byte, n)
		fill(p, m.rng)
		sent := bytes.Clone(p)
		err = m.d.(block.Writer).WriteAt(ctx, p, off, fua)
		if !bytes.Equal(p, sent) {
			t.Errorf("WriteAt changed what it was given")
		}
		copy(m.bytes[from:], sent)
		m.trimmed(from, to, false)
		// The buffer is the caller's again.
		clear(p)
	case 4:
		if f, ok := m.d.(block.Flusher); ok {
			name, err = "Flush", f.Flush(ctx)
		}
	case 5:
		if tr, ok := m.d.(block.Trimmer); ok {
			name, err = "Trim", tr.Trim(ctx, off, int64(n), fua)
			m.trimmed(from, to, true)
		}
	case 6, 7:
		if z, ok := m.d.(block.Zeroer); ok {
			name, err = "WriteZeroes", z.WriteZeroes(ctx, off, int64(n), op == 6, false, fua)
			clear(m.bytes[from:to])
			m.trimmed(from, to, false)
		}
	default:
		m.checkRange(t, from, to)
	}
	if err != nil {
		t.Errorf("%s(%d bytes, %d): %v", name, n, off, err)
	}
}

// fill makes p's bytes random.
func fill(p []byte, rng *rand.Rand) {
	for len(p) > 8 {
		binary.NativeEndian.PutUint64(p, rng.Uint64())
		p = p[8:]
	}
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
}

// trimmed notes whether a part may read as anything.
func (m *model) trimmed(from, to int, is bool) {
	for i := range m.any[from:to] {
		m.any[from+i] = is
	}
}

// check compares the whole part, and what the device's map says of it.
func (m *model) check(t *testing.T) {
	t.Helper()
	m.checkRange(t, 0, len(m.bytes))
	if m.base != 0 || int64(len(m.bytes)) != m.d.Size() || block.Has(m.d)&block.CanMap == 0 {
		return
	}
	// What was trimmed is taken as it is now.
	now := make([]byte, len(m.bytes))
	if err := m.d.ReadAt(context.Background(), now, 0); err != nil {
		t.Errorf("read it all: %v", err)
	}
	checkExtents(t, m.d, now, 0, int64(len(now)))
}

// checkRange compares the bytes from from to to.
func (m *model) checkRange(t *testing.T, from, to int) {
	t.Helper()
	got := make([]byte, to-from)
	if err := m.d.ReadAt(context.Background(), got, m.base+int64(from)); err != nil {
		t.Errorf("ReadAt(%d bytes, %d): %v", len(got), m.base+int64(from), err)
		return
	}
	if bytes.Equal(got, m.bytes[from:to]) {
		return
	}
	for i, b := range got {
		if b != m.bytes[from+i] && (m.any == nil || !m.any[from+i]) {
			t.Errorf("byte %d is %#x, want %#x", m.base+int64(from+i), b, m.bytes[from+i])
			return
		}
	}
}
