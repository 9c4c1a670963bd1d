package mcast

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestABitsetIsASetOfNumbers(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	var b bitset
	model := map[int]bool{}
	for range 5000 {
		i := rng.IntN(300)
		if rng.IntN(2) == 0 {
			b.set(i)
			model[i] = true
		} else {
			b.clear(i)
			delete(model, i)
		}
		if i = rng.IntN(400); b.has(i) != model[i] {
			t.Fatalf("has(%d) is %v", i, b.has(i))
		}
	}
	var want, got []int
	for i := range model {
		want = append(want, i)
	}
	slices.Sort(want)
	for i := b.next(0); i >= 0; i = b.next(i + 1) {
		got = append(got, i)
	}
	if !slices.Equal(got, want) {
		t.Errorf("members %v, want %v", got, want)
	}
	if i := b.next(1000); i != -1 {
		t.Errorf("next(1000) is %d", i)
	}
}
