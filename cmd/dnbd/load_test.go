//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dnbd/dnbd/nbd"
)

const (
	loadBlocks  = 2048
	loadBlock   = 4096
	loadSector  = 512 // what a crash leaves whole
	loadSize    = loadBlocks * loadBlock
	loadWriters = 8
)

// record is what is known of a block of an export. The writes of a block are numbered. Number n makes all of the block zero if zeroes(n)
// says so, and else fills it with n and the block's own number.
type record struct {
	stable   uint64 // the last write that must be there after a crash
	answered uint64 // the last write that was answered
	begun    uint64 // the last write that was sent
	doubtful uint64 // the writes up to this one may be lost, as a flush said that failed
}

// zeroes says whether write n is one of zeroes. Before the first write all is zero.
func zeroes(n uint64) bool { return n%8 == 0 }

// fill makes p what write n of a block makes it.
func fill(p []byte, block int, n uint64) {
	for at := 0; at < len(p); at += 16 {
		binary.BigEndian.PutUint64(p[at:], n)
		binary.BigEndian.PutUint64(p[at+8:], uint64(block))
	}
}

// load writes to an export and keeps a log of what was answered and flushed.
type load struct {
	t    *testing.T
	seed uint64

	flushing sync.Mutex // one flush at a time: one that fails tells for all

	mu      sync.Mutex // guards log
	log     [loadBlocks]record
	crashed atomic.Bool // errors are no wonder
	wrote   chan struct{}
}

func newLoad(t *testing.T) *load {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return &load{t: t, seed: seed, wrote: make(chan struct{}, 1)}
}

// run writes with c, through a number of writers, until ctx ends or the server is gone.
func (l *load) run(ctx context.Context, c *nbd.Client, round int) {
	var wg sync.WaitGroup
	for w := range loadWriters {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(l.seed, uint64(round*loadWriters+w)))
			for ctx.Err() == nil {
				if err := l.step(ctx, c, w, rng); err != nil {
					if !l.crashed.Load() && ctx.Err() == nil {
						l.t.Errorf("writer %d: %v", w, err)
					}
					return
				}
				select {
				case l.wrote <- struct{}{}:
				default:
				}
			}
		})
	}
	wg.Wait()
}

// step is one write of writer w to some of its blocks, or a flush.
func (l *load) step(ctx context.Context, c *nbd.Client, w int, rng *rand.Rand) error {
	if rng.IntN(32) == 0 {
		return l.flush(ctx, c)
	}
	const own = loadBlocks / loadWriters
	n := 1 + rng.IntN(16)
	first := w*own + rng.IntN(own-n+1)
	fua := rng.IntN(16) == 0
	p := make([]byte, n*loadBlock)
	l.mu.Lock()
	zero := zeroes(l.log[first].begun + 1)
	last := first
	for ; last < first+n && zeroes(l.log[last].begun+1) == zero; last++ {
		l.log[last].begun++
		fill(p[(last-first)*loadBlock:][:loadBlock], last, l.log[last].begun)
	}
	l.mu.Unlock()
	var err error
	if off, n := int64(first)*loadBlock, int64(last-first)*loadBlock; zero {
		err = c.WriteZeroes(ctx, off, n, rng.IntN(2) == 0, false, fua)
	} else {
		err = c.WriteAt(ctx, p[:n], off, fua)
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := first; i < last; i++ {
		r := &l.log[i]
		r.answered = r.begun
		if fua {
			r.stable = r.begun
		}
	}
	return nil
}

// flush makes what was answered before stable. One that fails with EIO says that this may be lost.
func (l *load) flush(ctx context.Context, c *nbd.Client) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.mu.Lock()
	before := l.log
	l.mu.Unlock()
	err := c.Flush(ctx)
	var answer *nbd.RemoteError
	lost := errors.As(err, &answer) && answer.Errno() == syscall.EIO
	if err != nil && !lost {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.log {
		switch r := &l.log[i]; {
		case lost:
			r.doubtful = max(r.doubtful, r.answered)
		case before[i].answered > r.doubtful:
			r.stable = max(r.stable, before[i].answered)
		}
	}
	return nil
}

// await waits for n writes.
func (l *load) await(n int) {
	l.t.Helper()
	for range n {
		select {
		case <-l.wrote:
		case <-time.After(patience):
			l.t.Fatal("nothing is written")
		}
	}
}

// check compares all that the export holds with the log. Nothing is written meanwhile.
func (l *load) check(c *nbd.Client) {
	l.t.Helper()
	got := make([]byte, loadSize)
	if err := c.ReadAt(l.t.Context(), got, 0); err != nil {
		l.t.Fatal(err)
	}
	bad := 0
	for i := range l.log {
		r := &l.log[i]
		stable := r.begun
		for at := range loadBlock / loadSector {
			n, ok := r.find(got[i*loadBlock+at*loadSector:][:loadSector], i)
			if stable = min(stable, n); !ok {
				bad++
			}
			if !ok && bad < 10 {
				l.t.Errorf("block %d, sector %d: it holds %x, which is none of the writes %d to %d (answered %d)",
					i, at, got[i*loadBlock+at*loadSector:][:16], r.stable, r.begun, r.answered)
			}
		}
		// What is there may still be lost, but nothing of what was before can be.
		r.stable, r.doubtful = stable, r.begun
		r.answered = r.begun
	}
	if bad > 0 {
		l.t.Fatalf("%d sectors are lost", bad)
	}
}

// find says which write's a sector of the block is, of those that it may be. Of zeroes it is the oldest.
func (r *record) find(sector []byte, block int) (n uint64, ok bool) {
	want := make([]byte, len(sector))
	for n = r.stable; n <= r.begun; n++ {
		clear(want)
		if !zeroes(n) {
			fill(want, block, n)
		}
		if bytes.Equal(sector, want) {
			return n, true
		}
	}
	return r.stable, false
}

// diskFile is a new file for the load.
func diskFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(loadSize), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
