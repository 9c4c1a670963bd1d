package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"
)

// To hash what is in the page cache at the speed of the hash, files are mapped where they can be: a read copies, and that
// is three tenths of the time that reading and hashing take. What a mapping cannot say, such as why a page could not be
// read, is found out by reading after all.

const (
	// readLen is how many bytes are read at a time where blocks are smaller: enough to make the system call cheap, and
	// little enough to be still in the core's own cache when they are hashed.
	readLen = 64 << 10
	// stepLen is how much is hashed between two looks at the context, and between two calls of progress.
	stepLen = 4 << 20
	// A worker takes between minRun and maxRun bytes at a time: enough for the disk's read-ahead and to make mapping cheap;
	// no more, since mapped pages count as the program's memory while they are mapped. Both are multiples of every block
	// size and every page size.
	minRun = 1 << 20
	maxRun = 16 << 20
)

// found is told the hash and the checksum of a block.
type found func(block uint32, h Hash, checksum uint64)

// hashBlocks reads all data blocks from r and calls found for each: from several goroutines at once, in no order, and now and
// then twice. Progress and the error are as in Build.
func hashBlocks(ctx context.Context, r io.ReaderAt, g Geometry, progress func(done int64), found found) error {
	// A worker's error ends the others through the context; the first is the cause.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := runtime.GOMAXPROCS(0)
	run := min(max(g.size/int64(8*workers)/minRun*minRun, minRun), maxRun)
	var next atomic.Int64 // the first byte that no worker has taken
	var mu sync.Mutex     // guards done and the order of the calls of progress
	var done int64
	step := func(n int64) bool {
		if progress != nil {
			mu.Lock()
			done += n
			progress(done)
			mu.Unlock()
		}
		return ctx.Err() == nil
	}

	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			h := newHasher(r, g, found, step)
			for ctx.Err() == nil {
				off := next.Add(run) - run
				if off >= g.size {
					return
				}
				if err := h.run(off, min(run, g.size-off)); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// hasher is what one worker of hashBlocks has.
type hasher struct {
	r       io.ReaderAt
	g       Geometry
	found   found
	step    func(n int64) bool // says that n more bytes are done, and returns whether to go on
	buf     []byte
	zeros   []byte // a full block of them, and what is found for it
	zeroOf  Hash
	zeroSum uint64
}

func newHasher(r io.ReaderAt, g Geometry, found found, step func(int64) bool) *hasher {
	zeros := make([]byte, g.blockSize)
	return &hasher{
		r: r, g: g, found: found, step: step, buf: make([]byte, max(readLen, g.blockSize)),
		zeros: zeros, zeroOf: ZeroHash(g.blockSize), zeroSum: xxh3.Hash(zeros),
	}
}

// run hashes the blocks in the n bytes at off.
func (h *hasher) run(off, n int64) error {
	mapped, _ := mapFile(h.r, off, int(n))
	if mapped != nil {
		defer unmapFile(mapped)
	}
	readable := mapped != nil
	for at, end := off, off+n; at < end; {
		n := min(stepLen, end-at)
		if readable {
			readable = h.mapped(mapped[at-off:][:n], at)
		}
		if !readable {
			if err := h.read(at, n); err != nil {
				return err
			}
		}
		at += n
		if !h.step(n) {
			break
		}
	}
	return nil
}

// mapped hashes the blocks in p, which is at off. It returns false when a page of p could not be read: the disk failed, or
// the file is shorter now.
func (h *hasher) mapped(p []byte, off int64) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			if _, fault := cause.(interface{ Addr() uintptr }); !fault {
				panic(cause)
			}
			ok = false
		}
	}()
	populate(p)
	h.hash(p, off)
	return true
}

// read hashes the blocks in the n bytes at off after reading them.
func (h *hasher) read(off, n int64) error {
	for end := off + n; off < end; {
		p := h.buf[:min(int64(len(h.buf)), end-off)]
		if got, err := h.r.ReadAt(p, off); got < len(p) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
		}
		h.hash(p, off)
		off += int64(len(p))
	}
	return nil
}

// hash hashes the blocks in p, which is at off.
func (h *hasher) hash(p []byte, off int64) {
	for number := uint32(off / int64(h.g.blockSize)); len(p) > 0; number++ {
		block := p[:min(len(p), h.g.blockSize)]
		// Images are full of zero blocks, and to compare is several times as fast as to hash.
		if len(block) == len(h.zeros) && bytes.Equal(block, h.zeros) {
			h.found(number, h.zeroOf, h.zeroSum)
		} else {
			// The checksum first: it is the quicker one at getting a block into the core's cache, and costs nothing that way.
			checksum := xxh3.Hash(block)
			h.found(number, Sum(block), checksum)
		}
		p = p[len(block):]
	}
}
