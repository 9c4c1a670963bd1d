package mcast

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// lengths are block lengths: the whole sizes, last blocks and pages of every kind.
func lengths(rng *rand.Rand) []int {
	out := []int{1, 2, 31, 32, 33, 1169, 1170, 1171, 1442, 1443, 4095, 4096, 4097, 65535, 65536, 131072, 1<<20 - 1, 1 << 20}
	for range 200 {
		out = append(out, 1+rng.IntN(1<<20), 1+rng.IntN(64<<10), 32*(1+rng.IntN(2048)))
	}
	return out
}

func TestSymbolsCoverTheBlock(t *testing.T) {
	for _, length := range lengths(rand.New(rand.NewPCG(1, 1))) {
		for _, most := range []int{1170, 1422, 1442, 8942} {
			l := newLayout(length, most)
			at := 0
			for i := range l.k {
				from, to := l.span(i)
				if from != at || to <= from || to-from > most || to-from != l.sizeOf(i) {
					t.Fatalf("%d bytes in symbols of %d: symbol %d is [%d, %d), the one before ends at %d", length, most, i, from, to, at)
				}
				if i < l.k-1 && to-from != l.size {
					t.Fatalf("%d bytes in symbols of %d: symbol %d of %d has %d bytes where %d are usual", length, most, i, l.k, to-from, l.size)
				}
				at = to
			}
			if at != length {
				t.Fatalf("%d bytes in symbols of %d: they end at %d", length, most, at)
			}
			if l.k%l.gens != 0 || l.perGen() > maxGeneration || l.k > maxSymbols {
				t.Fatalf("%d bytes in symbols of %d: %+v", length, most, l)
			}
			// The receiver knows the length and k only.
			if got, err := layoutOf(length, l.k); err != nil || got != l {
				t.Fatalf("%d bytes in %d symbols: %+v, %v; the sender has %+v", length, l.k, got, err, l)
			}
		}
	}
}

func TestLayoutsThatNoSenderMakesAreRefused(t *testing.T) {
	for _, c := range []struct{ length, k int }{
		{4096, 0}, {4096, -1}, {0, 1}, {4096, maxSymbols + 1}, {3, 4}, {1 << 20, 129}, {5, 4},
	} {
		if l, err := layoutOf(c.length, c.k); err == nil {
			t.Errorf("%d symbols for %d bytes: %+v", c.k, c.length, l)
		}
	}
}

// lose fills a block from all symbols but the lost ones, and parity for each.
func lose(t *testing.T, l layout, block []byte, lost map[int]bool, parityFrom int) []byte {
	t.Helper()
	a := &assembly{layout: l, data: make([]byte, l.length), have: make([]int, l.gens)}
	var missing []int // by generation
	var indexes []int
	missing = make([]int, l.gens)
	for i := range l.k {
		if lost[i] {
			g := i % l.gens
			indexes = append(indexes, l.k+(parityFrom+missing[g])*l.gens+g)
			missing[g]++
			continue
		}
		from, to := l.span(i)
		if !a.add(i, block[from:to]) {
			t.Fatalf("symbol %d is no news", i)
		}
	}
	symbols, err := coder.parity(l, block, indexes)
	if err != nil {
		t.Fatal(err)
	}
	for i, index := range indexes {
		if a.missing() == 0 {
			t.Fatalf("complete with %d of %d parity symbols", i, len(indexes))
		}
		if !a.add(index, symbols[i]) || a.add(index, symbols[i]) {
			t.Fatalf("parity symbol %d is not news once", index)
		}
	}
	if a.missing() != 0 {
		t.Fatalf("%d missing", a.missing())
	}
	if repaired, err := a.complete(coder); err != nil || repaired != (len(lost) > 0) {
		t.Fatalf("repaired %v, %v", repaired, err)
	}
	return a.data
}

func TestEveryPatternOfLossIsRestored(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for _, c := range []struct{ length, most int }{
		{1, 1442},
		{32, 1442},
		{4096, 1170},
		{5000, 1442},
		{65536, 1442},
		{65536, 8942},
		{65535, 1170},
		{256 << 10, 1442},
		{1 << 20, 1442},
		{1<<20 - 7, 1170},
	} {
		l := newLayout(c.length, c.most)
		block := make([]byte, c.length)
		rand.NewChaCha8([32]byte{byte(c.length)}).Read(block)
		t.Run(fmt.Sprintf("%d bytes in %d symbols", c.length, l.k), func(t *testing.T) {
			for try := range 12 {
				lost := map[int]bool{}
				switch try {
				case 0: // nothing
				case 1: // everything
					for i := range l.k {
						lost[i] = true
					}
				case 2: // the last, which is short
					lost[l.k-1] = true
				case 3: // a burst
					for i := range min(l.k, 2*l.gens) {
						lost[i] = true
					}
				default:
					for range 1 + rng.IntN(l.k) {
						lost[rng.IntN(l.k)] = true
					}
				}
				spare := fieldSize - l.perGen()
				if got := lose(t, l, block, lost, rng.IntN(spare-l.perGen()+1)); !bytes.Equal(got, block) {
					t.Fatalf("%d symbols lost: another block came", len(lost))
				}
			}
		})
	}
}

func TestSymbolsOfAnotherLayoutAreNotTaken(t *testing.T) {
	l := newLayout(4096, 1170)
	a := &assembly{layout: l, data: make([]byte, l.length), have: make([]int, l.gens)}
	for _, c := range []struct{ index, size int }{
		{0, l.size - 1}, {0, l.size + 1}, {l.k - 1, l.size + 1}, {l.k, l.size - 1}, {l.symbols(), l.size}, {65535, l.size}, {0, 0},
	} {
		if a.add(c.index, make([]byte, c.size)) {
			t.Errorf("symbol %d of %d bytes was taken", c.index, c.size)
		}
	}
}

// The matrix is a part of the protocol: this is its definition in docs/protocol.md.
func TestParityIsACauchyCodeOverTheBytes(t *testing.T) {
	mul := func(a, b byte) (p byte) {
		for ; b > 0; b >>= 1 {
			if b&1 != 0 {
				p ^= a
			}
			if a&0x80 != 0 {
				a = a<<1 ^ 0x1d
			} else {
				a <<= 1
			}
		}
		return p
	}
	inverse := func(a byte) byte {
		for b := range 256 {
			if mul(a, byte(b)) == 1 {
				return byte(b)
			}
		}
		t.Fatalf("%d has no inverse", a)
		return 0
	}
	for _, c := range []struct{ length, most int }{{10, 4}, {4096, 1170}, {65536, 1442}, {300_000, 1442}} {
		l := newLayout(c.length, c.most)
		block := make([]byte, c.length)
		rand.NewChaCha8([32]byte{1}).Read(block)
		for _, row := range []int{l.perGen(), l.perGen() + 1, 200, 255} {
			for g := range l.gens {
				index := row*l.gens + g
				got, err := coder.parity(l, block, []int{index})
				if err != nil {
					t.Fatal(err)
				}
				for _, at := range []int{0, 1, l.size - 1} {
					var want byte
					for column := range l.perGen() {
						if o := (column*l.gens+g)*l.size + at; o < min((column*l.gens+g+1)*l.size, c.length) {
							want ^= mul(inverse(byte(row^column)), block[o])
						}
					}
					if got[0][at] != want {
						t.Fatalf("%d bytes, symbol %d: byte %d is %#x, want %#x", c.length, index, at, got[0][at], want)
					}
				}
			}
		}
	}
}

func TestParityDoesNotDependOnHowManyAreMade(t *testing.T) {
	l := newLayout(200_000, 1442)
	block := make([]byte, l.length)
	rand.NewChaCha8([32]byte{3}).Read(block)
	var indexes []int
	for i := l.k; i < l.k+9; i++ {
		indexes = append(indexes, i)
	}
	together, err := coder.parity(l, block, indexes)
	if err != nil {
		t.Fatal(err)
	}
	for i, index := range indexes {
		alone, err := coder.parity(l, block, []int{index})
		if err != nil || !bytes.Equal(alone[0], together[i]) {
			t.Errorf("symbol %d alone is not what it is among others (%v)", index, err)
		}
	}
}
