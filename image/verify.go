package image

import (
	"context"
	"fmt"
)

// Run is a run of blocks, both ends included.
type Run struct{ First, Last uint32 }

// Verification is what Verify found.
type Verification struct {
	Descriptor Descriptor
	// Differing are the data blocks whose bytes do not match the tree, in ascending order.
	Differing []Run
	// Blocks is how many they are.
	Blocks int64
	// Touched says that the file's modification time is not the sidecar's, so that Open would find it stale.
	Touched bool
}

// Verify hashes the file or block device at path anew and compares every block with the sidecar beside it, which must
// describe a file of the same size but may be of another time. Progress, if not nil, is told how many bytes of how many
// are done, as in Build.
func Verify(ctx context.Context, path string, progress func(done, total int64)) (*Verification, error) {
	src, err := openSource(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	s, err := readSidecarOf(path)
	if err == nil {
		err = s.Validate(src.size, s.ModTime)
	}
	if err != nil {
		return nil, fmt.Errorf("verify image %s: %w; 'dnbd image create' makes a new sidecar", path, err)
	}
	g := s.Tree.Geometry()
	differs := make([]bool, g.Data()) // each written by one goroutine
	var report func(int64)
	if progress != nil {
		report = func(done int64) { progress(done, src.size) }
	}
	err = hashBlocks(ctx, src, g, report, func(number uint32, h Hash, _ uint64) {
		want, _ := s.Tree.Hash(number)
		differs[number] = h != want
	})
	if err != nil {
		return nil, fmt.Errorf("verify image %s: %w", path, err)
	}
	v := &Verification{Descriptor: s.Descriptor, Touched: s.Validate(src.size, src.modTime) != nil}
	for number := range g.Data() {
		if differs[number] {
			v.Differing = appendRun(v.Differing, number)
			v.Blocks++
		}
	}
	return v, nil
}

// appendRun adds a block to runs that end below it.
func appendRun(runs []Run, number uint32) []Run {
	if n := len(runs); n > 0 && runs[n-1].Last+1 == number {
		runs[n-1].Last = number
		return runs
	}
	return append(runs, Run{First: number, Last: number})
}
