package cow

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/dnbd/dnbd/block/blocktest"
)

func TestAKeptOverlayIsThereAgain(t *testing.T) {
	want := baseBytes()
	scratch := blocktest.NewDisk(KeptSize(size))
	for i := range 5 {
		d := openKept(t, sparse(t, baseBytes()), scratch)
		got := make([]byte, size)
		if err := d.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("opened for the %d. time it reads otherwise, %v", i+1, err)
		}
		p := bytes.Repeat([]byte{byte(i + 1)}, 50_000)
		off := i * 123_457
		if err := d.WriteAt(t.Context(), p, int64(off), false); err != nil {
			t.Fatal(err)
		}
		copy(want[off:], p)
		if err := d.WriteZeroes(t.Context(), int64(off+1000), 9000, true, false, false); err != nil {
			t.Fatal(err)
		}
		clear(want[off+1000 : off+10_000])
		if err := d.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		scratch.Crash(nil)
	}
}

// After a crash each sector is as it was when it was last known to be on stable storage, or as one of the changes since
// then made it.
func TestWhatWasFlushedOutlivesACrash(t *testing.T) {
	const sector = 512
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		const small = 64<<10 + sector
		base := make([]byte, small)
		rand.NewChaCha8([32]byte{byte(seed)}).Read(base)
		scratch := blocktest.NewDisk(KeptSize(small))
		// may has, for each sector, what it may hold after a crash, what it holds now last.
		may := make([][][]byte, small/sector)
		for i := range may {
			may[i] = [][]byte{base[i*sector:][:sector]}
		}
		for range 4 {
			d := openKept(t, blocktest.NewMemory(base), scratch)
			for i, m := range may {
				got := make([]byte, sector)
				if err := d.ReadAt(t.Context(), got, int64(i*sector)); err != nil {
					t.Fatal(err)
				}
				found := false
				for _, p := range m {
					found = found || bytes.Equal(p, got)
				}
				if !found {
					t.Fatalf("seed %d: sector %d holds what was never there, or what should be gone", seed, i)
				}
				may[i] = [][]byte{got}
			}
			for range 10 {
				if rng.IntN(6) == 0 {
					if err := d.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
					for i, m := range may {
						may[i] = m[len(m)-1:]
					}
					continue
				}
				first := rng.IntN(len(may))
				n := rng.IntN(min(len(may)-first, 20)) + 1
				fua := rng.IntN(3) == 0
				p := make([]byte, n*sector)
				var err error
				if rng.IntN(4) == 0 {
					err = d.WriteZeroes(t.Context(), int64(first*sector), int64(len(p)), true, false, fua)
				} else {
					for i := range p {
						p[i] = byte(rng.Uint32())
					}
					err = d.WriteAt(t.Context(), p, int64(first*sector), fua)
				}
				if err != nil {
					t.Fatal(err)
				}
				for i := range n {
					m := append(may[first+i], p[i*sector:][:sector])
					if fua {
						m = m[len(m)-1:]
					}
					may[first+i] = m
				}
			}
			scratch.Crash(func() bool { return rng.IntN(2) == 0 })
		}
	}
}
