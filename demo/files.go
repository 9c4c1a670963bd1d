//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// roots are where the files of the image come from, until there are enough: what every machine has.
var roots = []string{"/usr/share", "/usr/lib", "/usr/bin"}

// file is a file of this machine that is in the image too.
type file struct {
	path string // here; in the image it is the same
	size int64
	sum  [sha256.Size]byte
}

// choose picks trees of files of about n bytes together, and returns the trees and their files.
func choose(ctx context.Context, n int64) (trees []string, files []file, err error) {
	for _, root := range roots {
		entries, err := os.ReadDir(root)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range entries {
			if !e.IsDir() && !e.Type().IsRegular() {
				continue
			}
			tree := filepath.Join(root, e.Name())
			in, bytes, err := list(ctx, tree)
			if err != nil {
				return nil, nil, err
			}
			if bytes == 0 || bytes > n {
				continue
			}
			trees, files, n = append(trees, tree), append(files, in...), n-bytes
		}
	}
	if len(files) == 0 {
		return nil, nil, fmt.Errorf("none of the directories in %v has files that fit", roots)
	}
	return trees, files, nil
}

// list returns the regular files of a tree, and how many bytes they have.
func list(ctx context.Context, tree string) (files []file, bytes int64, err error) {
	err = filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) {
			return nil // it is not in the image
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files = append(files, file{path: path, size: info.Size()})
		bytes += info.Size()
		return ctx.Err()
	})
	return files, bytes, err
}

// sumAll notes what the originals hold.
func sumAll(ctx context.Context, files []file) error {
	for i := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		sum, err := sumOf(files[i].path, io.Discard)
		if err != nil {
			return err
		}
		files[i].sum = sum
	}
	return nil
}

// sumOf reads a file, writes what it reads to w too, and returns its sum.
func sumOf(path string, w io.Writer) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	// A plain reader, so that io.Copy hands over the bytes as they come.
	if _, err := io.Copy(io.MultiWriter(h, w), struct{ io.Reader }{f}); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// makeImage makes a squashfs of trees, in which each has its full path. It is not compressed, so that the bytes of the
// files and the bytes on the wire can be compared.
func makeImage(ctx context.Context, image string, trees []string) error {
	args := append(append([]string{}, trees...), image,
		"-no-strip", "-noI", "-noD", "-noF", "-noX", "-no-xattrs", "-no-progress", "-quiet")
	if out, err := exec.CommandContext(ctx, "mksquashfs", args...).CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("make the image: mksquashfs: %w: %s", err, out)
	}
	return nil
}

// deal gives each of n clients what it is to read: two thirds of the bytes are for all of them, and of the rest each gets
// its own part.
func deal(files []file, n int) [][]file {
	var total int64
	for _, f := range files {
		total += f.size
	}
	common := total * 2 / 3
	parts := make([][]file, n)
	var at int64
	for _, f := range files {
		if at < common {
			for i := range parts {
				parts[i] = append(parts[i], f)
			}
		} else {
			i := min(int((at-common)*int64(n)/max(total-common, 1)), n-1)
			parts[i] = append(parts[i], f)
		}
		at += f.size
	}
	return parts
}
