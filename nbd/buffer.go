package nbd

import (
	"math/bits"
	"sync"
)

// minBufferBits: buffers are powers of two from 4 KiB, the smallest request that is common, to maxPayload. A step of two
// wastes half of a buffer at most.
const (
	minBufferBits = 12
	maxBufferBits = 26
)

// buffer holds the data of one read or write, and is as long as that.
type buffer struct {
	b    []byte
	pool *sync.Pool
}

// buffers is a server's stock of buffers and requests. Its zero value is ready.
type buffers struct {
	requests sync.Pool
	pools    [maxBufferBits - minBufferBits + 1]sync.Pool
}

// get returns a buffer of n bytes, at least 1 and at most maxPayload, with any contents.
func (s *buffers) get(n int) *buffer {
	class := max(bits.Len(uint(n-1)), minBufferBits)
	pool := &s.pools[class-minBufferBits]
	buf, _ := pool.Get().(*buffer)
	if buf == nil {
		buf = &buffer{b: make([]byte, 1<<class), pool: pool}
	}
	buf.b = buf.b[:n]
	return buf
}

// request returns a request with any contents.
func (s *buffers) request() *request {
	if r, _ := s.requests.Get().(*request); r != nil {
		return r
	}
	return new(request)
}

// recycle gives r back, which nobody may use from then on.
func (s *buffers) recycle(r *request) {
	r.data, r.pipe, r.reply, r.contexts = nil, nil, nil, nil
	s.requests.Put(r)
}

// release gives b back to its stock; nobody may use it from then on. A nil b is left alone.
func (b *buffer) release() {
	if b != nil {
		b.pool.Put(b)
	}
}
