package overlay

import (
	"encoding/binary"
	"math/bits"
)

// state says whose a block is. It has two bits.
type state uint64

const (
	isBase state = 0 // the base's
	isData state = 1 // the overlay's
	isZero state = 2 // zero
)

const (
	// perWord is how many states a word has.
	perWord = 32
	// low has the low bit of each state of a word.
	low = 0x5555555555555555
)

// states has a state for each block, those of whole pages. In a page of the map its words are little-endian.
type states []uint64

func newStates(pages int64) states { return make(states, pages*pageBlocks/perWord) }

func (s states) get(i int64) state { return state(s[i/perWord] >> (i % perWord * 2) & 3) }

// set gives the blocks from first to before end a state.
func (s states) set(first, end int64, to state) {
	for first < end {
		n := min(perWord-first%perWord, end-first)
		mask := ^uint64(0) >> (64 - 2*n) << (first % perWord * 2)
		s[first/perWord] = s[first/perWord]&^mask | low*uint64(to)&mask
		first += n
	}
}

// run returns where the run of like states that begins at first ends, or limit if it goes on there.
func (s states) run(first, limit int64) int64 {
	same := low * uint64(s.get(first))
	for i := first; i < limit; i = (i/perWord + 1) * perWord {
		other := s[i/perWord] ^ same
		other = (other | other>>1) & low >> (i % perWord * 2)
		if other != 0 {
			return min(i+int64(bits.TrailingZeros64(other)/2), limit)
		}
	}
	return limit
}

// held counts the blocks of each kind.
func (s states) held() Held {
	var data, zero int
	for _, word := range s {
		data += bits.OnesCount64(word & low)
		zero += bits.OnesCount64(word &^ low)
	}
	return Held{Data: int64(data) * BlockSize, Zero: int64(zero) * BlockSize}
}

// page returns the words of a page.
func (s states) page(p int64) states {
	const words = pageBlocks / perWord
	return s[p*words:][:words]
}

// encode returns the bytes of a page's states.
func (s states) encode(p int64) []byte {
	b := make([]byte, 0, pageBlocks/4)
	for _, word := range s.page(p) {
		b = binary.LittleEndian.AppendUint64(b, word)
	}
	return b
}

// decode takes in the bytes of a page's states. It says whether they are states of blocks below limit.
func (s states) decode(p int64, b []byte, limit int64) bool {
	words := s.page(p)
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(b[8*i:])
		if words[i]&(words[i]>>1)&low != 0 {
			return false
		}
	}
	end := (p + 1) * pageBlocks
	return limit >= end || s.get(limit) == isBase && s.run(limit, end) == end
}

// with returns the bytes of the states of a page that change when its blocks from first to before end get one, and where
// among the bytes of that page they are.
func (s states) with(first, end int64, to state) (b []byte, at int64) {
	from := first / 4
	b = make([]byte, (end+3)/4-from)
	for i := range b {
		n := from + int64(i)
		b[i] = byte(s[n/8] >> (n % 8 * 8))
	}
	for i := first; i < end; i++ {
		shift := i % 4 * 2
		b[i/4-from] = b[i/4-from]&^(3<<shift) | byte(to)<<shift
	}
	return b, from - first/pageBlocks*(pageBlocks/4)
}
