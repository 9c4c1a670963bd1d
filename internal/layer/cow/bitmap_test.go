package cow

import (
	"math/rand/v2"
	"testing"
)

func TestBitmapAgreesWithAListOfBools(t *testing.T) {
	const n = 300
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		m, want := newBitmap(n), make([]bool, n)
		for range rng.IntN(6) {
			first := rng.Int64N(n)
			end := first + rng.Int64N(n-first+1)
			m.set(first, end)
			for i := first; i < end; i++ {
				want[i] = true
			}
		}
		for i := range int64(n) {
			if m.has(i) != want[i] {
				t.Fatalf("bit %d is %v", i, m.has(i))
			}
			limit := i + 1 + rng.Int64N(n-i)
			end := i + 1
			for end < limit && want[end] == want[i] {
				end++
			}
			if got := m.run(i, limit); got != end {
				t.Fatalf("the run at %d ends at %d, want %d, at most %d", i, got, end, limit)
			}
		}
	}
}
