package client

import "sync/atomic"

// marks is a set of blocks that many goroutines may change at once.
type marks []atomic.Uint32

func newMarks(blocks uint32) marks { return make(marks, blocks/32+1) }

// set puts a block in.
func (m marks) set(block uint32) { m[block/32].Or(1 << (block % 32)) }

// take takes a block out. It says whether it was in.
func (m marks) take(block uint32) bool {
	bit := uint32(1) << (block % 32)
	word := &m[block/32]
	return word.Load()&bit != 0 && word.And(^bit)&bit != 0
}
