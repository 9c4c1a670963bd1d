package overlay

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/image"
)

// next is the revision after of(small): some blocks differ, and some that did not are zero, or are what the overlay holds.
func next(contents []byte) (p []byte, is Base) {
	p = baseBytes(small)
	rand.NewChaCha8([32]byte{8}).Read(p[:10_000])
	clear(p[50_000:])
	copy(p[20<<10:24<<10], contents[20<<10:])
	return p, Base{Name: "debian", Revision: 4, ID: image.ID{10}, Size: small}
}

// toRebase is an overlay of of(small) on a disk, and what the device reads as.
func toRebase(t *testing.T) (*recorder, []byte) {
	t.Helper()
	disk, contents := &recorder{Disk: blocktest.NewDisk(Size(small))}, baseBytes(small)
	d := opened(t, baseBytes(small), disk, thisStart)
	p := bytes.Repeat([]byte("written"), 2000)
	must(t, d.WriteAt(t.Context(), p, 18<<10, false), d.Trim(t.Context(), 4096, 4096, false), d.Trim(t.Context(), 56<<10, 4096, false),
		d.Close())
	copy(contents[18<<10:], p)
	clear(contents[4096:8192])
	clear(contents[56<<10 : 60<<10])
	disk.Crash(nil)
	disk.ops = nil
	return disk, contents
}

func TestARebasedOverlayReadsTheSame(t *testing.T) {
	disk, contents := toRebase(t)
	other, is := next(contents)
	d := opened(t, baseBytes(small), disk, thisStart)
	var told int64
	must(t, d.Rebase(t.Context(), blocktest.NewMemory(other), is, func(done int64) { told = done }), d.Close())
	if told == 0 {
		t.Error("no progress was told")
	}
	disk.Crash(nil)
	if _, err := Open(t.Context(), blocktest.NewMemory(baseBytes(small)), disk, of(small)); err == nil {
		t.Error("it still belongs to the old base")
	}
	d, err := open(t.Context(), blocktest.NewMemory(other), disk, is, thisStart)
	must(t, err)
	holds(t, d, contents)
	// What the new base has as well has left it, and its space with it: bytes 20 to 24 KiB, and the zeroes from 56 KiB.
	if s, _ := d.run(20<<10, 1); s != isBase {
		t.Errorf("a block that both have has state %d", s)
	}
	if s, _ := d.run(56<<10, 1); s != isBase {
		t.Errorf("zeroes that both have have state %d", s)
	}
	got := make([]byte, BlockSize)
	must(t, disk.ReadAt(t.Context(), got, d.at(20<<10)))
	if !allZero(got) {
		t.Error("a block that has left takes space")
	}

	// Over what it reads as it holds nothing.
	must(t, d.Rebase(t.Context(), blocktest.NewMemory(contents), Base{Name: "debian", Revision: 5, ID: image.ID{11}, Size: small}, nil))
	if held := d.Held(); held != (Held{}) {
		t.Errorf("%+v", held)
	}
	must(t, d.Close())
}

func TestARebaseThatCannotBeIsRefused(t *testing.T) {
	disk, contents := toRebase(t)
	d := opened(t, baseBytes(small), disk, thisStart)
	err := d.Rebase(t.Context(), blocktest.NewMemory(make([]byte, 2*small)), Base{Name: "larger", Size: 2 * small}, nil)
	if err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("another size: %v", err)
	}
	bad := errors.New("away")
	err = d.Rebase(t.Context(), blocktest.Faulty(blocktest.NewMemory(contents), func(block.Request) error { return bad }),
		Base{Size: small}, nil)
	if !errors.Is(err, bad) {
		t.Errorf("a base that cannot be read: %v", err)
	}
	must(t, d.Close())
	disk.Crash(nil)
	holds(t, opened(t, baseBytes(small), disk, thisStart), contents)
}

// Wherever a rebase ends, the device reads the same over the base that the overlay then belongs to.
func TestARebaseOutlivesAPowerCutAtAnyWrite(t *testing.T) {
	disk, contents := toRebase(t)
	other, is := next(contents)
	stable := make([]byte, Size(small))
	must(t, disk.ReadAt(t.Context(), stable, 0))
	d := opened(t, baseBytes(small), disk, thisStart)
	must(t, d.Rebase(t.Context(), blocktest.NewMemory(other), is, nil), d.Close())
	var pending []op
	bases := map[image.ID]int{}
	for cut := range len(disk.ops) + 1 {
		for v, survives := range survivors(len(pending), rand.New(rand.NewPCG(1, uint64(cut)))) {
			p := bytes.Clone(stable)
			for i, o := range pending {
				if survives(i) {
					copy(p[o.off:], o.bytes)
				}
			}
			i, err := Inspect(t.Context(), blocktest.NewMemory(p))
			must(t, err)
			base := baseBytes(small)
			if i.Base.is(is) {
				base = other
			}
			bases[i.Base.ID]++
			d, err := open(t.Context(), blocktest.NewMemory(base), diskOf(t, p), i.Base, otherStart)
			if err != nil {
				t.Fatalf("cut before operation %d, variant %d: %v", cut, v, err)
			}
			holds(t, d, contents)
		}
		if cut == len(disk.ops) {
			break
		}
		if o := disk.ops[cut]; !o.flush {
			pending = append(pending, o)
			continue
		}
		for _, o := range pending {
			copy(stable[o.off:], o.bytes)
		}
		pending = nil
	}
	if len(bases) != 2 {
		t.Errorf("the overlay belonged to %v", bases)
	}
}

// Images whose trees tell that most of their blocks are the same are not read to be compared.
func TestImagesAreComparedByTheirTrees(t *testing.T) {
	dir := t.TempDir()
	open := func(name string, p []byte) *image.Image {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, p, 0o600))
		m, err := image.Create(t.Context(), path, image.CreateOptions{Name: "debian", BlockSize: image.MinBlockSize})
		must(t, err)
		t.Cleanup(func() { m.Close() })
		return m
	}
	contents := baseBytes(size)
	a := open("a", contents)
	contents[600_000]++
	b := open("b", contents)
	same := sameBlocks(a, b)
	if !same(0, 598_000) || same(590_000, 20_000) || !same(603_000, size-603_000) {
		t.Error("the trees tell something else")
	}
	is := Base{Name: "debian", Revision: 2, ID: b.ID(), Size: size}
	d, err := Open(t.Context(), a, blocktest.NewDisk(Size(size)), Base{Name: "debian", Revision: 1, ID: a.ID(), Size: size})
	must(t, err)
	must(t, d.Rebase(t.Context(), b, is, nil))
	if held := d.Held(); held.Data != BlockSize {
		t.Errorf("%+v, want one block", held)
	}
	must(t, d.Close())
}

// An overlay on a disk that fills up while it is rebased is still one of the old base.
func TestARebaseOnAFullDiskHarmsNothing(t *testing.T) {
	disk, contents := toRebase(t)
	other, is := next(contents)
	full := blocktest.Faulty(disk, func(r block.Request) error {
		if r.Op == block.Write && r.Off >= dataOffset(small) {
			return syscall.ENOSPC
		}
		return nil
	})
	d := opened(t, baseBytes(small), full, thisStart)
	if err := d.Rebase(t.Context(), blocktest.NewMemory(other), is, nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want ENOSPC", err)
	}
	must(t, d.Close())
	disk.Crash(nil)
	holds(t, opened(t, baseBytes(small), disk, thisStart), contents)
}
