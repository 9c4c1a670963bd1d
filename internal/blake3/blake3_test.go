package blake3

import (
	"math/rand/v2"
	"testing"

	zeebo "github.com/zeebo/blake3"
)

func TestBothLibrariesAgree(t *testing.T) {
	p := make([]byte, 4<<20+1)
	for i := range p {
		p[i] = byte(i % 251)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for n := span; n <= 4<<20; n *= 2 {
		for _, at := range []int{0, 1} { // aligned or not
			b := p[at : at+n]
			b[rng.IntN(n)]++
			want := zeebo.Sum256(b)
			if sumWhole(b) != want || Sum256(b) != want {
				t.Errorf("the hashes of %d bytes at %d differ", n, at)
			}
		}
	}
	for _, n := range []int{0, 1, span - 1, span + 1, 3 * span} {
		if Sum256(p[:n]) != zeebo.Sum256(p[:n]) {
			t.Errorf("the hashes of %d bytes differ", n)
		}
	}
}

func BenchmarkSum256(b *testing.B) {
	p := make([]byte, 64<<10)
	for _, l := range []struct {
		name string
		sum  func([]byte) [32]byte
	}{{"zeebo", zeebo.Sum256}, {"guts", sumWhole}} {
		b.Run(l.name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				l.sum(p)
			}
		})
	}
}
