package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/client"
	"github.com/dnbd/dnbd/internal/size"
	"github.com/dnbd/dnbd/internal/target"
)

// streamChunk is how many bytes are read at a time where the order matters.
const streamChunk = 1 << 20

// copyCommand is `dnbd copy`.
func copyCommand() *cobra.Command {
	var flags imageFlags
	var asJSON bool
	var replay replayFlag
	cmd := &cobra.Command{
		Use:   "copy [flags] IMAGE|FILE|NBD-URI DEST",
		Short: "Copy a whole image to a file, a block device, an NBD export, a pipe or nowhere",
		Long: "Copy a whole image to DEST: a file, a block device, the export of an NBD URI, - for standard output, or null: for\n" +
			"nowhere. Machines that copy the same image at the same time share what crosses the network, whenever they start.\n" +
			"Every block is checked. What is zero is not copied, where the two ends know of holes.\n\n" +
			"IMAGE is " + target.Forms + ".\n" +
			"FILE is a local file, with a / in its path or with a sidecar beside it; with a sidecar it is checked too.\n" +
			"NBD-URI is nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH and their like; with nbds it is TLS.",
		Example: "  dnbd copy debian-12 /dev/sda\n  dnbd copy --json dnbd://239.0.0.7/debian-12@3 null:\n  dnbd copy debian-12 - | zstd > debian-12.zst\n" +
			"  dnbd copy ./disk.img nbd://storage/disk",
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) != 2:
				return usagef("name what to copy and where to: IMAGE DEST")
			case asJSON && args[1] == toStdout:
				return usagef("--json and - both want standard output; leave out one of them")
			case replay > 0 && !isNBD(args[1]):
				return usagef("--replay is for copies to an NBD export, and %s is none", args[1])
			}
			return replay.check(cmd)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := openTransfer(cmd, &flags, args[0], args[1])
			if err != nil {
				return err
			}
			r, err := t.run(cmd.Context(), args[1], replay)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			}
			t.log.Info(fmt.Sprintf("copied %s, %s in %.1f s, from %s", r.Image, size.Format(r.Bytes), r.Seconds, t.where))
			return nil
		},
	}
	flags.add(cmd)
	replay.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object at the end: image, id, bytes, seconds, and what the network carried")
	return cmd
}

// copyReport is what copy prints as JSON; a contract with users. All but Image, ID and Seconds are in bytes.
type copyReport struct {
	Image      string  `json:"image"` // NAME@REVISION, the path of a file without a sidecar, or an NBD URI
	ID         string  `json:"id"`    // empty for these two
	Bytes      int64   `json:"bytes"`
	Seconds    float64 `json:"seconds"`
	Wanted     uint64  `json:"wanted"`
	Overheard  uint64  `json:"overheard"`
	Repaired   uint64  `json:"repaired"`
	Duplicates uint64  `json:"duplicates"`
}

// transfer is a copy about to be made.
type transfer struct {
	from   block.Device
	local  string // the file, if it is one
	where  string // for people: the file, or the group
	log    *slog.Logger
	bar    *progressBar
	report copyReport
	done   atomic.Int64 // bytes that are at the destination
}

// openTransfer opens what name means: a file, an NBD export, or an image of a group, for which it waits.
func openTransfer(cmd *cobra.Command, flags *imageFlags, name, dest string) (*transfer, error) {
	level := slog.LevelWarn
	if dest != toStdout {
		level = slog.LevelInfo
	}
	t := &transfer{log: newLog(cmd, level), bar: newProgressBar(cmd.ErrOrStderr(), "copying "+name)}
	t.report.Image = name
	if err := flags.check(name, isNBD(name)); err != nil {
		return nil, err
	}
	if isNBD(name) {
		if err := flags.without(name, "an export of an NBD server"); err != nil {
			return nil, err
		}
		secure, err := flags.tls.config()
		if err != nil {
			return nil, err
		}
		t.where = name
		t.from, err = openRemote(cmd.Context(), name, secure, 0, newLog(cmd, slog.LevelWarn))
		return t, err
	}
	if isFile(name) {
		if err := flags.without(name, "a file; 'dnbd image verify' checks signatures, too"); err != nil {
			return nil, err
		}
		t.local, t.where = name, "the file "+name
		d, err := openLocal(name)
		if err != nil {
			return nil, err
		}
		t.from = d
		if m, ok := d.(*image.Image); ok {
			t.describe(m.Descriptor())
		}
		return t, nil
	}
	what, err := target.Parse(name)
	if err != nil {
		return nil, usagef("%w", err)
	}
	n, err := flags.network(&what, newLog(cmd, slog.LevelWarn))
	if err != nil {
		return nil, err
	}
	policy, err := flags.policy(what)
	if err != nil {
		return nil, err
	}
	c, err := open(cmd.Context(), n, what, policy)
	if err != nil {
		return nil, err
	}
	t.from, t.where = c, strings.TrimPrefix(strings.TrimPrefix(n.String(), "in "), "from ")
	t.describe(c.Descriptor())
	return t, nil
}

// describe notes what is copied.
func (t *transfer) describe(d image.Descriptor) {
	t.report.Image, t.report.ID = fmt.Sprintf("%s@%d", d.Name, d.Revision), d.ID().String()
}

// run copies to dest.
func (t *transfer) run(ctx context.Context, dest string, replay replayFlag) (_ copyReport, err error) {
	defer func() { err = errors.Join(err, t.from.Close()) }()
	started := time.Now()
	to, err := openDestination(ctx, dest, t.from.Size(), t.local, replay)
	if err != nil {
		return copyReport{}, err
	}
	defer t.showProgress()()
	sink := client.Sink{
		Write: func(off int64, p []byte) error {
			t.done.Add(int64(len(p)))
			return to.write(off, p)
		},
		Zero: func(off, n int64) error {
			t.done.Add(n)
			return to.zero(off, n)
		},
	}
	c, multicast := t.from.(*client.Client)
	switch {
	case to.inOrder:
		err = t.stream(ctx, to)
	case multicast:
		err = c.Copy(ctx, sink)
	default:
		err = copyDevice(ctx, t.from, sink)
	}
	if err = to.close(err); err != nil {
		return copyReport{}, err
	}
	r := t.report
	r.Bytes, r.Seconds = t.from.Size(), time.Since(started).Seconds()
	if multicast {
		s := c.Stats().Network
		r.Wanted, r.Overheard, r.Repaired, r.Duplicates = s.Asked, s.Overheard, s.Repaired, s.Duplicates
	}
	return r, nil
}

// stream copies in order.
func (t *transfer) stream(ctx context.Context, to *destination) error {
	buf := make([]byte, streamChunk)
	for off, end := int64(0), t.from.Size(); off < end; off += streamChunk {
		p := buf[:min(streamChunk, end-off)]
		if err := t.from.ReadAt(ctx, p, off); err != nil {
			return err
		}
		if err := to.write(off, p); err != nil {
			return err
		}
		t.done.Add(int64(len(p)))
	}
	return nil
}

// showProgress keeps the bar up to date until the function that it returns is called.
func (t *transfer) showProgress() (end func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				t.bar.end()
				return
			case <-tick.C:
				t.bar.update(t.done.Load(), t.from.Size())
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}
