package mcast

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/reedsolomon"
)

// A code works on at most 256 symbols: the field is GF(2^8).
const (
	fieldSize = 256
	// maxGeneration bounds the data symbols of one code, so that at least as many parity symbols are left.
	maxGeneration = 128
	// maxSymbols bounds what a peer can make us reckon with: 1 MiB in symbols of 548 bytes, the IPv4 minimum.
	maxSymbols = 2048
)

// layout says how a block is cut into symbols. Symbol i below k holds the block's bytes from i*size on; the last one is
// shorter where the block's length is no multiple. Symbols from k on are parity over data symbols padded with zeros.
//
// A block of more than maxGeneration symbols is coded in several generations: symbol i belongs to generation i mod gens, so
// that a burst of loss is spread over all of them.
type layout struct {
	length int // of the block, in bytes
	k      int // data symbols, a multiple of gens
	size   int // bytes in a symbol
	gens   int // generations
}

// newLayout cuts a block of length bytes into symbols of at most max bytes.
func newLayout(length, max int) layout {
	k := (length + max - 1) / max
	gens := (k + maxGeneration - 1) / maxGeneration
	k = (k + gens - 1) / gens * gens
	return layout{length: length, k: k, size: (length + k - 1) / k, gens: gens}
}

// layoutOf is the layout that a sender used which cut a block of length bytes into k symbols.
func layoutOf(length, k int) (layout, error) {
	if k <= 0 || k > maxSymbols || length <= 0 {
		return layout{}, fmt.Errorf("%d symbols for a block of %d bytes", k, length)
	}
	gens := (k + maxGeneration - 1) / maxGeneration
	l := layout{length: length, k: k, size: (length + k - 1) / k, gens: gens}
	if k%gens != 0 || (k-1)*l.size >= length {
		return layout{}, fmt.Errorf("%d symbols for a block of %d bytes", k, length)
	}
	return l, nil
}

// perGen is the number of data symbols in a generation.
func (l layout) perGen() int { return l.k / l.gens }

// symbols is how many different symbols the code has, data and parity.
func (l layout) symbols() int { return fieldSize * l.gens }

// span is where data symbol i lies in the block.
func (l layout) span(i int) (from, to int) {
	return i * l.size, min((i+1)*l.size, l.length)
}

// sizeOf is the length of symbol i on the wire.
func (l layout) sizeOf(i int) int {
	if i >= l.k {
		return l.size
	}
	from, to := l.span(i)
	return to - from
}

// A Coder makes and uses parity symbols: Reed-Solomon over GF(2^8) with a Cauchy matrix, in which the coefficient of data
// symbol c in the code's symbol r (r from the generation's data symbols on) is the inverse of r xor c, modulo
// x^8+x^4+x^3+x^2+1. Parity r depends on the data alone, not on how many parities are made: a server can always send one more.
//
// It caches its matrices and is safe for use by several machines at once.
type Coder struct {
	inverse  [fieldSize]byte // in the field, of all but 0
	mu       sync.Mutex
	decoders map[int]reedsolomon.Encoder // by data symbols in a generation
}

// NewCoder returns a Coder.
func NewCoder() *Coder {
	c := &Coder{decoders: map[int]reedsolomon.Encoder{}}
	var power [fieldSize - 1]byte // of 2, which generates the field
	for i, x := 0, 1; i < len(power); i++ {
		power[i] = byte(x)
		if x <<= 1; x >= fieldSize {
			x ^= 0x11d
		}
	}
	for i, x := range power {
		c.inverse[x] = power[(len(power)-i)%len(power)]
	}
	return c
}

// decoder returns the code for k data symbols. It inverts a matrix for each pattern of loss: caching those would fill the memory.
func (c *Coder) decoder(k int) reedsolomon.Encoder {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d, ok := c.decoders[k]; ok {
		return d
	}
	d, err := reedsolomon.New(k, fieldSize-k, reedsolomon.WithCauchyMatrix(),
		reedsolomon.WithInversionCache(false), reedsolomon.WithMaxGoroutines(1))
	if err != nil {
		panic(fmt.Sprintf("mcast: code of %d symbols: %v", k, err)) // layouts allow 1 to maxGeneration only
	}
	c.decoders[k] = d
	return d
}

// encoder returns the code that makes some symbols of parity from k of data: to make one costs less than to make one symbol with it,
// and much less than to let a decoder find out that nothing is missing.
func (c *Coder) encoder(k int, rows []int) (reedsolomon.Encoder, error) {
	matrix := make([][]byte, len(rows))
	for i, row := range rows {
		matrix[i] = make([]byte, k)
		for column := range matrix[i] {
			matrix[i][column] = c.inverse[row^column]
		}
	}
	return reedsolomon.New(k, len(rows), reedsolomon.WithCustomMatrix(matrix),
		reedsolomon.WithInversionCache(false), reedsolomon.WithMaxGoroutines(1))
}

// shards are the symbols of generation g of a block, data only; the others are nil. The last symbol is copied and padded when
// it is short.
func (l layout) shards(block []byte, g int) [][]byte {
	shards := make([][]byte, fieldSize)
	for pos := range l.perGen() {
		from, to := l.span(pos*l.gens + g)
		shard := block[from:to]
		if len(shard) < l.size {
			shard = append(make([]byte, 0, l.size), shard...)[:l.size]
		}
		shards[pos] = shard
	}
	return shards
}

// parity returns the parity symbols with the given indexes, each at or above l.k, of a whole block.
func (c *Coder) parity(l layout, block []byte, indexes []int) ([][]byte, error) {
	out := make([][]byte, len(indexes))
	for g := range l.gens {
		var rows, places []int // of the generation's symbols in its code, and in out
		for i, index := range indexes {
			if index%l.gens == g {
				rows, places = append(rows, index/l.gens), append(places, i)
			}
		}
		if len(rows) == 0 {
			continue
		}
		shards := append(l.shards(block, g)[:l.perGen()], make([][]byte, len(rows))...)
		made := make([]byte, len(rows)*l.size)
		for i, place := range places {
			out[place] = made[i*l.size:][:l.size]
			shards[l.perGen()+i] = out[place]
		}
		e, err := c.encoder(l.perGen(), rows)
		if err == nil {
			err = e.Encode(shards)
		}
		if err != nil {
			return nil, fmt.Errorf("make parity: %w", err)
		}
	}
	return out, nil
}

var errTooFew = errors.New("too few symbols")

// restore fills in the data symbols of block that got does not have, from parity symbols by index.
func (c *Coder) restore(l layout, block []byte, got func(i int) bool, parity map[int][]byte) error {
	for g := range l.gens {
		shards := make([][]byte, fieldSize)
		missing := 0
		for pos := range l.perGen() {
			if i := pos*l.gens + g; !got(i) {
				missing++
			}
		}
		if missing == 0 {
			continue
		}
		full := l.shards(block, g)
		for pos := range l.perGen() {
			if got(pos*l.gens + g) {
				shards[pos] = full[pos]
			}
		}
		n := 0
		for index, p := range parity {
			if index%l.gens == g && n < missing {
				shards[index/l.gens] = p
				n++
			}
		}
		if n < missing {
			return errTooFew
		}
		if err := c.decoder(l.perGen()).ReconstructData(shards); err != nil {
			return fmt.Errorf("restore block: %w", err)
		}
		for pos := range l.perGen() {
			if i := pos*l.gens + g; !got(i) {
				from, to := l.span(i)
				copy(block[from:to], shards[pos])
			}
		}
	}
	return nil
}
