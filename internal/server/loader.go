package server

import (
	"context"
	"sync"

	"github.com/dnbd/dnbd/internal/mcast"
)

// loader reads blocks for all links with a bounded number of goroutines.
type loader struct {
	jobs chan job
	free sync.Pool // of *[]byte, each of the largest block's size
}

// job is a block that a link's sender asked for.
type job struct {
	link *link
	load mcast.Load
}

func newLoader() *loader {
	return &loader{jobs: make(chan job, 256)}
}

// run reads until ctx ends.
func (l *loader) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-l.jobs:
			j.link.load(j.load)
		}
	}
}

// queue hands jobs to the readers. It does not wait for ever: the sender has at most as many loads under way as the queue
// takes for some links, and with more of them the readers make room.
func (l *loader) queue(ctx context.Context, link *link, loads []mcast.Load) {
	for _, load := range loads {
		select {
		case l.jobs <- job{link, load}:
		case <-ctx.Done():
			return
		}
	}
}

func (l *loader) buffer(n int) []byte {
	if b, _ := l.free.Get().(*[]byte); b != nil && cap(*b) >= n {
		return (*b)[:n]
	}
	return make([]byte, n)
}

func (l *loader) release(b []byte) { l.free.Put(&b) }
