package seal

// windowSize is by how many datagrams one may be overtaken by others of its sender and still be let in.
const windowSize = 2048

// window remembers which of a sender's numbers were there, as RFC 6479 has it: a ring of bits of which the oldest word is cleared
// as the newest is begun.
type window struct {
	top  uint64
	bits [windowSize/64 + 1]uint64
}

// fresh says whether a number was not there yet, as far as is remembered.
func (w *window) fresh(n uint64) bool {
	switch {
	case n == 0:
		return false
	case n > w.top:
		return true
	case w.top-n >= windowSize:
		return false
	}
	return w.bits[n/64%uint64(len(w.bits))]&(1<<(n%64)) == 0
}

// note takes in that a number is there, which was fresh.
func (w *window) note(n uint64) {
	if n > w.top {
		for i, words := uint64(1), min(n/64-w.top/64, uint64(len(w.bits))); i <= words; i++ {
			w.bits[(w.top/64+i)%uint64(len(w.bits))] = 0
		}
		w.top = n
	}
	w.bits[n/64%uint64(len(w.bits))] |= 1 << (n % 64)
}
