package overlay

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/source/file"
)

const size = 1<<20 + 777

// thisStart and otherStart are ids of starts of a machine.
var (
	thisStart  = [bootSize]byte{1}
	otherStart = [bootSize]byte{99}
)

// baseBytes are n bytes without a pattern, with some blocks of zeroes.
func baseBytes(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(p)
	clear(p[n/3/BlockSize*BlockSize : n/2/BlockSize*BlockSize])
	return p
}

// of is an image of n bytes.
func of(n int64) Base { return Base{Name: "debian", Revision: 3, ID: image.ID{9}, Size: n} }

// opened opens an overlay over a device that holds p.
func opened(t *testing.T, p []byte, scratch block.Device, boot [bootSize]byte) *Device {
	t.Helper()
	d, err := open(t.Context(), blocktest.NewMemory(p), scratch, of(int64(len(p))), boot)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// holds checks that a device has the bytes want.
func holds(t *testing.T, d block.Device, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if err := d.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
}

// must fails the test if one of these was an error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestOverlaysConform(t *testing.T) {
	contents := baseBytes(size)
	t.Run("new", func(t *testing.T) {
		blocktest.ConformWritable(t, func(t *testing.T) block.Device {
			return opened(t, contents, blocktest.NewDisk(Size(size)), thisStart)
		})
	})
	t.Run("used", func(t *testing.T) {
		blocktest.ConformWritable(t, func(t *testing.T) block.Device {
			scratch := blocktest.NewDisk(Size(size))
			d := opened(t, contents, scratch, thisStart)
			must(t,
				d.WriteAt(t.Context(), make([]byte, 20_000), 1000, false),
				d.WriteAt(t.Context(), bytes.Repeat([]byte{1}, 20_000), 100_000, false),
				d.WriteZeroes(t.Context(), 200_000, 20_000, true, false, false),
				d.Close())
			scratch.Crash(nil)
			return opened(t, contents, scratch, otherStart)
		})
	})
	t.Run("in a file", func(t *testing.T) {
		dir := t.TempDir()
		image := filepath.Join(dir, "image")
		must(t, os.WriteFile(image, contents, 0o600))
		blocktest.ConformWritable(t, func(t *testing.T) block.Device {
			path := filepath.Join(dir, "overlay")
			_ = os.Remove(path) // of the one before
			base, err := file.Open(image)
			must(t, err)
			scratch, err := file.Create(path, Size(size))
			must(t, err)
			d, err := Open(t.Context(), base, scratch, of(size))
			must(t, err)
			return d
		})
	})
}

func TestWhatWasAnsweredIsThereAgainAfterAClose(t *testing.T) {
	want := baseBytes(size)
	scratch := blocktest.NewDisk(Size(size))
	for i := range 5 {
		d := opened(t, baseBytes(size), scratch, [bootSize]byte{byte(i)})
		holds(t, d, want)
		p, off := bytes.Repeat([]byte{byte(i + 1)}, 50_000), i*123_457
		must(t, d.WriteAt(t.Context(), p, int64(off), false))
		copy(want[off:], p)
		must(t, d.WriteZeroes(t.Context(), int64(off+1000), 9000, true, false, false))
		clear(want[off+1000 : off+10_000])
		must(t, d.Close())
		scratch.Crash(nil)
	}
}

// A process that is killed loses nothing that it has answered: the kernel still has it.
func TestWhatWasAnsweredIsThereAgainAfterAKill(t *testing.T) {
	want := baseBytes(size)
	scratch := blocktest.NewDisk(Size(size))
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 20 {
		d := opened(t, baseBytes(size), scratch, thisStart)
		holds(t, d, want)
		for range 30 {
			off := rng.IntN(size)
			n := min(rng.IntN(30_000), size-off)
			switch rng.IntN(4) {
			case 0:
				must(t, d.WriteZeroes(t.Context(), int64(off), int64(n), true, false, rng.IntN(5) == 0))
				clear(want[off : off+n])
			default:
				p := bytes.Repeat([]byte{byte(rng.Uint32())}, n)
				must(t, d.WriteAt(t.Context(), p, int64(off), rng.IntN(5) == 0))
				copy(want[off:], p)
			}
		}
		if round%5 == 4 {
			must(t, d.Close())
			scratch.Crash(nil)
		}
	}
}

func TestWhatIsZeroTakesNoSpace(t *testing.T) {
	scratch := blocktest.NewDisk(Size(size))
	d := opened(t, bytes.Repeat([]byte{0xee}, size), scratch, thisStart)
	ctx := t.Context()
	must(t, d.WriteAt(ctx, make([]byte, 1), 0, false)) // the map has its space
	must(t, d.Trim(ctx, 0, BlockSize, false), d.Flush(ctx))
	before := scratch.Allocated()
	for name, free := range map[string]func() error{
		"Trim":        func() error { return d.Trim(ctx, 0, 1<<20, true) },
		"WriteZeroes": func() error { return d.WriteZeroes(ctx, 0, 1<<20, true, true, true) },
	} {
		must(t, d.WriteAt(ctx, bytes.Repeat([]byte{1}, 1<<20), 0, true))
		if got := scratch.Allocated() - before; got < 1<<20 {
			t.Errorf("1 MiB takes %d bytes", got)
		}
		if held := d.Held(); held != (Held{Data: 1 << 20}) {
			t.Errorf("%+v", held)
		}
		must(t, free())
		if got := scratch.Allocated() - before; got > pageSize { // the second place of a page
			t.Errorf("%s left %d bytes", name, got)
		}
		if held := d.Held(); held != (Held{Zero: 1 << 20}) {
			t.Errorf("%s: %+v", name, held)
		}
	}
	got := make([]byte, 1<<20+1)
	if err := d.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got[:1<<20], make([]byte, 1<<20)) || got[1<<20] != 0xee {
		t.Errorf("it does not read as zero, or what is behind it does, %v", err)
	}
}

func TestAWholeBlockNeedsNothingFromTheBase(t *testing.T) {
	bad := errors.New("the base is away")
	base := blocktest.Faulty(blocktest.NewMemory(make([]byte, size)), func(block.Request) error { return bad })
	d, err := Open(t.Context(), base, blocktest.NewDisk(Size(size)), of(size))
	must(t, err)
	ctx := t.Context()
	const last = size - size%BlockSize
	must(t,
		d.WriteAt(ctx, make([]byte, 2*BlockSize), BlockSize, false),
		d.WriteAt(ctx, make([]byte, size-last), last, false), // it is short
		d.WriteZeroes(ctx, 10*BlockSize, BlockSize, true, true, false),
		d.WriteAt(ctx, []byte{1}, 10*BlockSize+5, false)) // it is zero
	if err := d.WriteAt(ctx, make([]byte, BlockSize), 1, false); !errors.Is(err, bad) {
		t.Errorf("a part of a block: %v, want the base's error", err)
	}
	if err := d.WriteZeroes(ctx, 20*BlockSize, 100, true, true, false); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a part of a block, fast: %v, want that it is not", err)
	}
}

func TestAWriteIsPromptThatNeedsTheScratchAlone(t *testing.T) {
	d := opened(t, baseBytes(size), blocktest.NewDisk(Size(size)), thisStart)
	must(t, d.WriteAt(t.Context(), make([]byte, 3*BlockSize), 2*BlockSize, false), d.Trim(t.Context(), 4*BlockSize, BlockSize, false))
	for _, c := range []struct {
		off, n int64
		want   bool
	}{
		{2 * BlockSize, BlockSize, true},
		{2 * BlockSize, 2 * BlockSize, true},
		{2 * BlockSize, 512, false},
		{2*BlockSize + 512, BlockSize, false},
		{BlockSize, 2 * BlockSize, false},     // begins in the base
		{2 * BlockSize, 3 * BlockSize, false}, // ends in what gave its space back
		{2 * BlockSize, 0, false},
		{size / BlockSize * BlockSize, BlockSize, false}, // behind the end
	} {
		if got := d.Prompt(c.off, c.n); got != c.want {
			t.Errorf("%d bytes at %d: %v", c.n, c.off, got)
		}
	}
	must(t, d.Close())
}

func TestAWriteToABlockThatIsCopiedWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		base := blocktest.Gated(blocktest.NewMemory(baseBytes(size)), gate)
		d, err := open(t.Context(), base, blocktest.NewDisk(Size(size)), of(size), thisStart)
		must(t, err)
		ctx := t.Context()
		results := make(chan error, 3)
		go func() { results <- d.WriteAt(ctx, []byte{1}, 10, false) }() // copies block 0 from the base, when the gate opens
		synctest.Wait()
		go func() { results <- d.WriteAt(ctx, bytes.Repeat([]byte{2}, BlockSize), 0, false) }()
		go func() { results <- d.Trim(ctx, 0, BlockSize, false) }()
		synctest.Wait()
		if len(results) != 0 {
			t.Fatal("a change did not wait")
		}
		// Another block is free, and who waits may give up.
		must(t, d.WriteAt(ctx, bytes.Repeat([]byte{3}, BlockSize), BlockSize, false))
		ended, end := context.WithCancel(ctx)
		end()
		if err := d.WriteAt(ended, make([]byte, BlockSize), 0, false); !errors.Is(err, context.Canceled) {
			t.Errorf("a write that gives up: %v", err)
		}
		close(gate)
		for range 3 {
			must(t, <-results)
		}
		got := make([]byte, BlockSize)
		must(t, d.ReadAt(ctx, got, 0))
		if !bytes.Equal(got, bytes.Repeat([]byte{2}, BlockSize)) && !bytes.Equal(got, make([]byte, BlockSize)) {
			t.Errorf("the block begins with %x", got[:16])
		}
	})
}

// Those who flush while another flush is under way share the next one.
func TestFlushesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, flushes := make(chan struct{}), 0
		var held sync.Mutex
		scratch := block.Around(blocktest.NewDisk(Size(size)), func(_ context.Context, r block.Request, do func() error) error {
			if r.Op == block.Flush {
				held.Lock()
				flushes++
				held.Unlock()
				<-gate
			}
			return do()
		})
		done := make(chan *Device)
		go func() {
			d, err := open(t.Context(), blocktest.NewMemory(baseBytes(size)), scratch, of(size), thisStart)
			must(t, err)
			done <- d
		}()
		gate <- struct{}{}
		gate <- struct{}{}
		d := <-done
		flushes = 0
		var all sync.WaitGroup
		for i := range int64(50) {
			all.Go(func() { must(t, d.WriteAt(t.Context(), []byte{1}, i*BlockSize, true)) })
			synctest.Wait()
		}
		close(gate)
		all.Wait()
		if flushes > 4 { // two for the first one, two for all others
			t.Errorf("50 writes that are forced made %d flushes", flushes)
		}
		must(t, d.Close())
	})
}

func TestAnOverlayOfAnotherImageIsRefused(t *testing.T) {
	scratch := blocktest.NewDisk(Size(size))
	must(t, opened(t, baseBytes(size), scratch, thisStart).Close())
	scratch.Crash(nil)
	contents := make([]byte, Size(size))
	must(t, scratch.ReadAt(t.Context(), contents, 0))
	for _, c := range []Base{
		{Name: "debian", Revision: 4, ID: image.ID{8}, Size: size},
		{Name: "films", Size: size},
		{Name: "films", Size: size + 9999},
	} {
		_, err := Open(t.Context(), blocktest.NewMemory(make([]byte, c.Size)), scratch, c)
		var mismatch *MismatchError
		if !errors.As(err, &mismatch) || !strings.Contains(err.Error(), "debian@3") || !strings.Contains(err.Error(), c.String()) {
			t.Errorf("%v: %v, want an error with both names", c, err)
		}
	}
	holds(t, scratch, contents)
	// The id is what counts: the same image may go by another name.
	d, err := Open(t.Context(), blocktest.NewMemory(make([]byte, size)), scratch, Base{Name: "copy", Revision: 1, ID: image.ID{9}, Size: size})
	must(t, err)
	must(t, d.Close())
}

func TestAFullDiskIsMetByTheWriterAlone(t *testing.T) {
	disk := blocktest.NewDisk(Size(size))
	full := false
	scratch := blocktest.Faulty(disk, func(r block.Request) error {
		if full && r.Op == block.Write && r.Off >= headers*headerSize {
			return syscall.ENOSPC
		}
		return nil
	})
	want := baseBytes(size)
	d := opened(t, baseBytes(size), scratch, thisStart)
	ctx := t.Context()
	full = true // before the map has any space
	if err := d.WriteAt(ctx, []byte("lost"), 0, true); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("without space for the map: %v, want ENOSPC", err)
	}
	must(t, d.Flush(ctx))
	holds(t, d, want)
	full = false
	must(t, d.WriteAt(ctx, []byte("kept"), 100_000, false))
	copy(want[100_000:], "kept")
	full = true
	if err := d.WriteAt(ctx, []byte("lost"), 200_000, false); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("without space for the block: %v, want ENOSPC", err)
	}
	full = false
	must(t, d.Flush(ctx))
	holds(t, d, want)
	disk.Crash(nil)
	holds(t, opened(t, baseBytes(size), disk, otherStart), want)
}

// A scratch that fails to flush has the flush fail, and all after it as it says; what was flushed before is kept.
func TestAFlushThatFailsIsTold(t *testing.T) {
	disk := blocktest.NewDisk(Size(size))
	bad := errors.New("worn out")
	broken := false
	scratch := blocktest.Faulty(disk, func(r block.Request) error {
		if broken && r.Op == block.Flush {
			return bad
		}
		return nil
	})
	d := opened(t, baseBytes(size), scratch, thisStart)
	ctx := t.Context()
	want := baseBytes(size)
	must(t, d.WriteAt(ctx, []byte("kept"), 0, true))
	copy(want, "kept")
	broken = true
	must(t, d.WriteAt(ctx, []byte("lost"), 100_000, false))
	if err := d.Flush(ctx); !errors.Is(err, bad) {
		t.Errorf("Flush: %v", err)
	}
	if err := d.Close(); !errors.Is(err, bad) {
		t.Errorf("Close: %v", err)
	}
	disk.Crash(nil)
	holds(t, opened(t, baseBytes(size), disk, otherStart), want)
}

func TestStatesAgreeWithAList(t *testing.T) {
	const n = pageBlocks + 300
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		s, want := newStates(2), make([]state, n)
		for range rng.IntN(6) {
			first := rng.Int64N(n)
			end := first + rng.Int64N(n-first+1)
			to := state(rng.IntN(3))
			s.set(first, end, to)
			for i := first; i < end; i++ {
				want[i] = to
			}
		}
		var held Held
		for i := range int64(n) {
			switch want[i] {
			case isData:
				held.Data += BlockSize
			case isZero:
				held.Zero += BlockSize
			}
			if s.get(i) != want[i] {
				t.Fatalf("state %d is %d", i, s.get(i))
			}
		}
		if s.held() != held {
			t.Errorf("held is %+v, want %+v", s.held(), held)
		}
		for range 300 {
			i := rng.Int64N(n)
			limit := i + 1 + rng.Int64N(n-i)
			end := i + 1
			for end < limit && want[end] == want[i] {
				end++
			}
			if got := s.run(i, limit); got != end {
				t.Fatalf("the run at %d ends at %d, want %d, at most %d", i, got, end, limit)
			}
		}
		// Bytes of a page with a change are those of the page after the change.
		first := pageBlocks + rng.Int64N(300)
		end := first + 1 + rng.Int64N(n-first)
		b, at := s.with(first, end, isZero)
		s.set(first, end, isZero)
		page := s.encode(1)
		if !bytes.Equal(page[at:at+int64(len(b))], b) || at != (first-pageBlocks)/4 || at+int64(len(b)) != (end-pageBlocks+3)/4 {
			t.Fatalf("blocks %d to %d: %d bytes at %d", first, end, len(b), at)
		}
		again := newStates(2)
		if !again.decode(0, s.encode(0), n) || !again.decode(1, page, n) || !bytes.Equal(again.encode(1), page) {
			t.Fatal("a page does not decode to what it was")
		}
	}
}

// What is trimmed gives its space back on a full disk too, also where the rest of the range has no room for a map.
func TestATrimOnAFullDiskGivesBackWhatIsThere(t *testing.T) {
	const size = 3 * pageBlocks * BlockSize
	disk := blocktest.NewDisk(Size(size))
	full := false
	scratch := blocktest.Faulty(disk, func(r block.Request) error {
		if full && r.Op == block.Write && r.Len == groupSize {
			return syscall.ENOSPC
		}
		return nil
	})
	d, err := open(t.Context(), blocktest.NewMemory(make([]byte, size)), scratch, of(size), thisStart)
	must(t, err)
	ctx := t.Context()
	must(t, d.WriteAt(ctx, bytes.Repeat([]byte{1}, 1<<20), pageBlocks*BlockSize+5*BlockSize, true))
	before := disk.Allocated()
	full = true
	must(t, d.Trim(ctx, 0, size, true))
	if held, freed := d.Held(), before-disk.Allocated(); held.Data != 0 || freed < 1<<20-pageSize {
		t.Errorf("%+v, %d bytes given back", held, freed)
	}
	if err := d.WriteAt(ctx, []byte{1}, 0, false); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a write: %v", err)
	}
}
