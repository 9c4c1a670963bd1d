//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// atOnce is how many files a client reads at a time, as a machine does that starts.
const atOnce = 4

// reader is a client that reads files and compares them with the originals.
type reader struct {
	name  string
	files []file

	bytes atomic.Int64 // read
	equal atomic.Int64 // files that are as the originals
}

// read reads the files below dir. It fails at the first one that is not as the original.
func (r *reader) read(ctx context.Context, dir string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan file)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for f := range work {
				if err := r.compare(ctx, dir, f); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, f := range r.files {
		if ctx.Err() != nil {
			break
		}
		work <- f
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

// compare reads one file.
func (r *reader) compare(ctx context.Context, dir string, f file) error {
	sum, err := sumOf(filepath.Join(dir, f.path), counter{ctx, &r.bytes})
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", r.name, err)
	case sum != f.sum:
		return fmt.Errorf("%s read %s and got other bytes than the original has", r.name, f.path)
	}
	r.equal.Add(1)
	return nil
}

// counter counts what is written to it, and ends with its context.
type counter struct {
	ctx context.Context
	n   *atomic.Int64
}

// Write implements io.Writer.
func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), c.ctx.Err()
}
