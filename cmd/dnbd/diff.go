package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/server"
	"github.com/dnbd/dnbd/internal/size"
	"github.com/dnbd/dnbd/nbd"
)

// diffCommand is `dnbd diff`.
func diffCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff NBD-URI|FILE NBD-URI|FILE",
		Short: "Tell where two NBD exports or files differ",
		Long: "Tell where two NBD exports, files or block devices differ. Exports of images are compared by the hashes of their blocks,\n" +
			"which moves hardly any data; everything else is read. It fails when they differ.",
		Example: "  dnbd diff nbd://a/disk nbd://b/disk\n  dnbd diff ./disk.img nbd://b/disk",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("name the two to compare, each by an NBD URI or as a file")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := compare(cmd.Context(), args[0], args[1], newLog(cmd, slog.LevelWarn))
			if err != nil {
				return err
			}
			if asJSON {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(d); err != nil {
					return err
				}
			} else {
				for _, r := range d.Ranges {
					fmt.Fprintf(cmd.OutOrStdout(), "%d %d\n", r.Offset, r.Length)
				}
			}
			if len(d.Ranges) > 0 || d.Sizes[0] != d.Sizes[1] {
				return d.failure(args)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object: sizes, by, ranges")
	return cmd
}

// difference is what diff prints as JSON; a contract with users. Numbers are in bytes.
type difference struct {
	Sizes  [2]int64       `json:"sizes"`
	By     string         `json:"by"`     // hash or content
	Ranges []differsRange `json:"ranges"` // where they differ, up to the end of the shorter one
}

type differsRange struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// differs notes that n bytes at off are not the same.
func (d *difference) differs(off, n int64) {
	if i := len(d.Ranges) - 1; i >= 0 && d.Ranges[i].Offset+d.Ranges[i].Length == off {
		d.Ranges[i].Length += n
		return
	}
	d.Ranges = append(d.Ranges, differsRange{off, n})
}

// failure is the error of two that are not the same.
func (d *difference) failure(names []string) error {
	if d.Sizes[0] != d.Sizes[1] {
		return fmt.Errorf("%s has %d bytes, %s has %d", names[0], d.Sizes[0], names[1], d.Sizes[1])
	}
	var n int64
	for _, r := range d.Ranges {
		n += r.Length
	}
	return fmt.Errorf("%s and %s differ in %s of %s", names[0], names[1], size.Format(n), size.Format(d.Sizes[0]))
}

// compare finds out where two differ.
func compare(ctx context.Context, a, b string, log *slog.Logger) (*difference, error) {
	if isNBD(a) && isNBD(b) {
		if d, err := compareHashes(ctx, a, b); d != nil || err != nil {
			return d, err
		}
	}
	var devices [2]block.Device
	for i, name := range []string{a, b} {
		d, err := deviceOf(ctx, name, log)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		devices[i] = d
	}
	d := &difference{Sizes: [2]int64{devices[0].Size(), devices[1].Size()}, By: "content", Ranges: []differsRange{}}
	var buf [2][]byte
	for off, end := int64(0), min(d.Sizes[0], d.Sizes[1]); off < end; off += copyPiece {
		n := min(copyPiece, end-off)
		failed := make(chan error, 1)
		for i := range buf {
			buf[i] = slices.Grow(buf[i][:0], copyPiece)[:n]
		}
		go func() { failed <- devices[1].ReadAt(ctx, buf[1], off) }()
		err := devices[0].ReadAt(ctx, buf[0], off)
		if err = errors.Join(err, <-failed); err != nil {
			return nil, err
		}
		for at := int64(0); at < n; at += zeroPiece {
			to := min(at+zeroPiece, n)
			if !bytes.Equal(buf[0][at:to], buf[1][at:to]) {
				d.differs(off+at, to-at)
			}
		}
	}
	return d, nil
}

// hashed is a run of bytes and 64 bits of their hash.
type hashed struct {
	n    int64
	hash uint64
}

// compareHashes compares two exports by the hashes of their blocks. It returns nil where a server does not tell them, or where the
// blocks are not of one size.
func compareHashes(ctx context.Context, a, b string) (*difference, error) {
	d := &difference{By: "hash", Ranges: []differsRange{}}
	var blocks [2][]hashed
	var sizes [2]uint32 // of a block: servers of images prefer requests of that size
	for i, uri := range []string{a, b} {
		c, err := nbd.Dial(ctx, uri, nbd.DialConfig{Contexts: []string{server.HashContext}})
		if err != nil {
			return nil, whereToLook(uri, err)
		}
		defer c.Close()
		if d.Sizes[i] = c.Size(); !slices.Contains(c.Info().Contexts, server.HashContext) {
			return nil, nil
		}
		sizes[i] = c.Info().PreferredBlock
		err = c.BlockStatus(ctx, server.HashContext, 0, c.Size(), func(n int64, hash uint64) bool {
			blocks[i] = append(blocks[i], hashed{n, hash})
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	if sizes[0] != sizes[1] {
		return nil, nil
	}
	x, y := blocks[0], blocks[1]
	for off := int64(0); len(x) > 0 && len(y) > 0; {
		// Neighbours of one hash may have come as one.
		n := min(x[0].n, y[0].n)
		if x[0].hash != y[0].hash {
			d.differs(off, n)
		}
		off += n
		for _, list := range []*[]hashed{&x, &y} {
			if (*list)[0].n -= n; (*list)[0].n == 0 {
				*list = (*list)[1:]
			}
		}
	}
	return d, nil
}
