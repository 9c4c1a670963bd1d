package mcast

import (
	"errors"
	"fmt"

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
// It is safe for use by several machines at once.
type Coder struct {
	power [2 * (fieldSize - 1)]byte // of 2, which generates the field; twice, for sums of two logarithms
	log   [fieldSize]int            // by it, of all but 0
}

// NewCoder returns a Coder.
func NewCoder() *Coder {
	c := &Coder{}
	for i, x := 0, 1; i < fieldSize-1; i++ {
		c.power[i], c.power[i+fieldSize-1], c.log[x] = byte(x), byte(x), i
		if x <<= 1; x >= fieldSize {
			x ^= 0x11d
		}
	}
	return c
}

// coefficient is that of data symbol column in the code's symbol row.
func (c *Coder) coefficient(row, column int) byte {
	return c.power[fieldSize-1-c.log[row^column]]
}

func (c *Coder) multiply(x, y byte) byte {
	if x == 0 || y == 0 {
		return 0
	}
	return c.power[c.log[x]+c.log[y]]
}

// unmix is the inverse of the matrix of the coefficients of some columns in as many rows, which has a closed form (Cauchy's): with rows x
// and columns y, its element for column j and row i is the product of all xᵢ+yₙ and all xₙ+yⱼ, over that of xᵢ+yⱼ, all other xᵢ+xₙ and all other
// yⱼ+yₙ.
func (c *Coder) unmix(rows, columns []int) [][]byte {
	// The logarithm of what depends on one of them alone.
	factor := func(own, others []int, n int) int {
		sum := 0
		for i := range own {
			sum += c.log[own[n]^others[i]]
			if i != n {
				sum -= c.log[own[n]^own[i]]
			}
		}
		return sum
	}
	byRow := make([]int, len(rows))
	for i := range rows {
		byRow[i] = factor(rows, columns, i)
	}
	inverse := make([][]byte, len(columns))
	for j := range columns {
		inverse[j] = make([]byte, len(rows))
		byColumn := factor(columns, rows, j)
		for i, row := range rows {
			const order = fieldSize - 1
			inverse[j][i] = c.power[((byRow[i]+byColumn-c.log[row^columns[j]])%order+order)%order]
		}
	}
	return inverse
}

// mix makes symbols that are linear combinations of others, by a row of the matrix each.
func mix(matrix, from, to [][]byte) error {
	e, err := reedsolomon.New(len(from), len(to), reedsolomon.WithCustomMatrix(matrix),
		reedsolomon.WithInversionCache(false), reedsolomon.WithMaxGoroutines(1))
	if err != nil {
		return err
	}
	return e.Encode(append(from, to...))
}

// shards are the data symbols of generation g of a block. The last symbol is copied and padded when it is short.
func (l layout) shards(block []byte, g int) [][]byte {
	shards := make([][]byte, l.perGen(), fieldSize)
	for pos := range shards {
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
		var matrix, made [][]byte
		for i, index := range indexes {
			if index%l.gens != g {
				continue
			}
			row := make([]byte, l.perGen())
			for column := range row {
				row[column] = c.coefficient(index/l.gens, column)
			}
			out[i] = make([]byte, l.size)
			matrix, made = append(matrix, row), append(made, out[i])
		}
		if len(made) == 0 {
			continue
		}
		if err := mix(matrix, l.shards(block, g), made); err != nil {
			return nil, fmt.Errorf("make parity: %w", err)
		}
	}
	return out, nil
}

var errTooFew = errors.New("too few symbols")

// restore fills in the data symbols of block that got does not have, from parity symbols by index.
func (c *Coder) restore(l layout, block []byte, got func(i int) bool, parity map[int][]byte) error {
	for g := range l.gens {
		var here, missing, rows []int // positions of data symbols in the generation, and of symbols of parity
		for pos := range l.perGen() {
			if got(pos*l.gens + g) {
				here = append(here, pos)
			} else {
				missing = append(missing, pos)
			}
		}
		if len(missing) == 0 {
			continue
		}
		var symbols [][]byte // that are here: data, then parity
		full := l.shards(block, g)
		for _, pos := range here {
			symbols = append(symbols, full[pos])
		}
		for index, p := range parity {
			if index%l.gens == g && len(rows) < len(missing) {
				rows, symbols = append(rows, index/l.gens), append(symbols, p)
			}
		}
		if len(rows) < len(missing) {
			return errTooFew
		}
		// Parity less what the data here has in it is a mixture of the missing symbols.
		matrix := c.unmix(rows, missing)
		for j, inverse := range matrix {
			matrix[j] = make([]byte, len(here), l.perGen())
			for i, row := range rows {
				for n, column := range here {
					matrix[j][n] ^= c.multiply(inverse[i], c.coefficient(row, column))
				}
			}
			matrix[j] = append(matrix[j], inverse...)
		}
		restored := make([][]byte, len(missing))
		for j, pos := range missing {
			restored[j] = full[pos] // of the block itself, but for a short symbol
		}
		if err := mix(matrix, symbols, restored); err != nil {
			return fmt.Errorf("restore block: %w", err)
		}
		for j, pos := range missing {
			from, to := l.span(pos*l.gens + g)
			copy(block[from:to], restored[j])
		}
	}
	return nil
}
