package mcast

import "time"

// assembly is a block whose symbols are arriving.
type assembly struct {
	block  uint32
	layout layout
	data   []byte // layout.length bytes, those of the symbols in got filled in; nil where bytes are not kept
	got    bitset
	have   []int          // symbols by generation
	parity map[int][]byte // by index
	from   *replica       // whose symbols came last
	end    uint64         // last number of the burst that brought them, as its sender said
	open   bool           // that burst has not ended yet
	repair time.Time      // when to ask for what is missing, zero for not now
	hole   bool           // it is in Receiver.holes
	late   bool           // no server that sent the whole block had been heard when it began to
	heard  time.Time
}

// add takes symbol index in. It says whether that was news; a symbol that cannot be of this layout is not, nor is one of a
// generation that is complete.
func (a *assembly) add(index int, payload []byte) bool {
	l := a.layout
	if index >= l.symbols() || a.got.has(index) || a.have[index%l.gens] >= l.perGen() ||
		a.data != nil && len(payload) != l.sizeOf(index) && len(payload) != l.size {
		return false
	}
	a.got.set(index)
	a.have[index%l.gens]++
	if a.data == nil {
		return true
	}
	payload = payload[:l.sizeOf(index)] // the short symbol at the end of a block may be padded
	switch {
	case index >= l.k:
		if a.parity == nil {
			a.parity = map[int][]byte{}
		}
		a.parity[index] = append([]byte(nil), payload...)
	default:
		from, _ := l.span(index)
		copy(a.data[from:], payload)
	}
	return true
}

// missing is how many symbols the neediest generation lacks.
func (a *assembly) missing() int {
	n := 0
	for _, have := range a.have {
		n = max(n, a.layout.perGen()-have)
	}
	return n
}

// complete fills in what the data symbols left open. It says whether parity was needed.
func (a *assembly) complete(c *Coder) (repaired bool, err error) {
	if len(a.parity) == 0 { // or their bytes are not kept
		return false, nil
	}
	err = c.restore(a.layout, a.data, a.got.has, a.parity)
	return true, err
}
