package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/flock"
	"github.com/dnbd/dnbd/internal/layer/overlay"
	"github.com/dnbd/dnbd/internal/size"
	"github.com/dnbd/dnbd/internal/source/file"
)

// cowCommand is `dnbd cow`: what can be done with the file of an overlay.
func cowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cow",
		Short: "Look into the files of attach --cow, check them, make images of them",
	}
	cmd.AddCommand(cowInfoCommand(), cowCheckCommand(), cowCommitCommand(), cowRebaseCommand())
	return cmd
}

func cowInfoCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "info FILE",
		Short:   "Show which image an overlay belongs to and what it holds",
		Long:    "Show which image an overlay belongs to and what it holds. Nothing is changed, and the file may be in use.",
		Example: "  dnbd cow info /var/lib/dnbd/debian.cow",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := inspect(cmd, args[0], false)
			if err != nil {
				return err
			}
			if asJSON {
				return r.writeJSON(cmd.OutOrStdout())
			}
			return r.writeText(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func cowCheckCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Compare all metadata of an overlay with its checksums",
		Long: "Compare all metadata of an overlay with its checksums. Nothing is changed. A file in use is refused, and cannot be\n" +
			"taken into use meanwhile. The command fails when something is damaged, also where another copy is not. What a\n" +
			"crash has cut short is no damage: it was not flushed yet. The data has no checksums.",
		Example: "  dnbd cow check /var/lib/dnbd/debian.cow",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := inspect(cmd, args[0], true)
			var damage *overlay.DamageError
			if err != nil && !errors.As(err, &damage) {
				return err
			}
			if damage != nil {
				r.Faults = damage.Faults
			}
			write := r.writeCheck
			if asJSON {
				write = r.writeJSON
			}
			if err := write(cmd.OutOrStdout()); err != nil {
				return err
			}
			switch {
			case damage != nil:
				return fmt.Errorf("check overlay %s: it is damaged and cannot be used", args[0])
			case len(r.Faults) > 0 && !r.Open:
				return fmt.Errorf("check overlay %s: %d places are damaged; there is another copy of each, and the next use mends them",
					args[0], len(r.Faults))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func cowCommitCommand() *cobra.Command {
	var flags imageFlags
	cmd := &cobra.Command{
		Use:   "commit FILE BASE NEW",
		Short: "Make a new image of an overlay and the image that it belongs to",
		Long: "Make a new image, the file NEW, of the overlay in FILE and of BASE, the image that it belongs to: NEW holds what the\n" +
			"device with the overlay reads as, has BASE's name, and a revision one higher. FILE stays as it is, and may not be in\n" +
			"use; 'dnbd cow rebase FILE BASE NEW' then leaves it empty.\n\n" +
			"BASE is a local file with a / in its path or with a sidecar beside it, an NBD URI, or an image of a group.",
		Example: "  dnbd cow commit /var/lib/dnbd/debian.cow ./debian-12.img debian-12-new.img",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 3 {
				return usagef("name the overlay, the image that it belongs to, and the file to make: FILE BASE NEW")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return commit(cmd, &flags, args[0], args[1], args[2])
		},
	}
	flags.add(cmd)
	return cmd
}

func cowRebaseCommand() *cobra.Command {
	var flags imageFlags
	cmd := &cobra.Command{
		Use:   "rebase FILE OLD NEW",
		Short: "Have an overlay belong to another image, and read the same",
		Long: "Have the overlay in FILE, which belongs to the image OLD, belong to the image NEW, of the same size. The device reads\n" +
			"exactly the same afterwards: what NEW has otherwise is copied from OLD into the overlay, and what the overlay and NEW\n" +
			"have in common leaves it. So rebase saves space after a commit, or when NEW came of the same machine. It does not\n" +
			"bring NEW's changes to the machine: a file system that finds some of its blocks changed under it, and others not,\n" +
			"is damaged. To have them start with a new overlay.\n\n" +
			"OLD and NEW are local files with a / in their paths or with a sidecar beside them, NBD URIs, or images of a group.",
		Example: "  dnbd cow rebase /var/lib/dnbd/debian.cow ./debian-12.img ./debian-12-new.img",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 3 {
				return usagef("name the overlay, the image that it belongs to, and the one it is to belong to: FILE OLD NEW")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return rebase(cmd, &flags, args[0], args[1], args[2])
		},
	}
	flags.add(cmd)
	return cmd
}

// commit makes the image dest of the overlay in a file and its base.
func commit(cmd *cobra.Command, flags *imageFlags, path, base, dest string) (err error) {
	if _, err := os.Lstat(dest); err == nil {
		return fmt.Errorf("%s exists: name a file to make", dest)
	}
	t, over, err := openOver(cmd, flags, path, base)
	if err != nil {
		return err
	}
	o := image.CreateOptions{}
	if m, ok := t.from.(described); ok {
		d := m.Descriptor()
		o.Name, o.Revision, o.BlockSize = d.Name, d.Revision+1, d.BlockSize
	}
	t.from = over
	if _, err := t.run(cmd.Context(), dest, 0); err != nil {
		return err
	}
	bar := newProgressBar(cmd.ErrOrStderr(), "hashing")
	o.Progress = bar.update
	m, err := image.Create(cmd.Context(), dest, o)
	bar.end()
	if err != nil {
		return errors.Join(err, closeImage(m))
	}
	return errors.Join(reportOf(m).writeText(cmd.OutOrStdout()), m.Close())
}

// rebase moves the overlay in a file from one image to another.
func rebase(cmd *cobra.Command, flags *imageFlags, path, base, next string) (err error) {
	t, over, err := openOver(cmd, flags, path, base)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, over.Close()) }()
	to, err := openTransfer(cmd, flags, next, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.from.Close()) }()
	before := over.Held()
	bar := newProgressBar(cmd.ErrOrStderr(), "comparing")
	err = over.Rebase(cmd.Context(), to.from, baseOf(next, to.from), func(done int64) { bar.update(done, over.Size()) })
	bar.end()
	if err != nil {
		return err
	}
	now := over.Held()
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s belongs to %s now; it held %s more than %s, and holds %s more than that\n", path,
		to.report.Image, size.Format(before.Data), t.report.Image, size.Format(now.Data))
	return err
}

// openOver opens the overlay in a file over its base. The transfer says what that is, and belongs to the overlay.
func openOver(cmd *cobra.Command, flags *imageFlags, path, base string) (*transfer, *overlaid, error) {
	if _, err := os.Stat(path); err != nil { // it is not to be made
		return nil, nil, err
	}
	t, err := openTransfer(cmd, flags, base, "")
	if err != nil {
		return nil, nil, err
	}
	over, err := openOverlay(cmd.Context(), t.from, path, baseOf(base, t.from))
	if err != nil {
		return nil, nil, errors.Join(err, t.from.Close())
	}
	return t, over, nil
}

// cowReport is what info and check print as JSON; a contract with users.
type cowReport struct {
	File     string          `json:"file"`
	Base     string          `json:"base"`     // the name of the image
	Revision uint64          `json:"revision"` // of the image, 0 if it is none
	ID       string          `json:"id"`       // of the image, empty if it is none
	Size     int64           `json:"size"`     // of the image, in bytes
	Data     int64           `json:"data"`     // bytes of blocks that were written
	Blocks   int64           `json:"blocks"`   // how many these are
	Zero     int64           `json:"zero_blocks"`
	Created  time.Time       `json:"created"`
	Written  time.Time       `json:"written"` // when the metadata was last put on stable storage
	Open     bool            `json:"open"`    // in use, or not closed as it should
	HeldBy   int             `json:"held_by"` // the process that has it open, 0 if none has
	Faults   []overlay.Fault `json:"faults"`  // damaged places
}

// inspections bounds how often a file that is written to is looked at until what was read fits together.
const inspections = 10

// inspect reads the metadata of the overlay in the file at path; with lock it may not be in use.
func inspect(cmd *cobra.Command, path string, lock bool) (cowReport, error) {
	r := cowReport{File: path, Faults: []overlay.Fault{}}
	f, err := os.Open(path)
	if err != nil {
		return r, err
	}
	defer f.Close()
	if r.HeldBy = flock.Holder(f); lock {
		if err := flock.Lock(f, false); err != nil {
			return r, fmt.Errorf("check overlay %s: %w", path, err)
		}
		r.HeldBy = 0
	}
	scratch, err := file.Open(path)
	if err != nil {
		return r, err
	}
	defer scratch.Close()
	i, err := overlay.Inspect(cmd.Context(), scratch)
	for range inspections {
		if r.HeldBy == 0 || !errors.Is(err, overlay.ErrDamaged) {
			break
		}
		i, err = overlay.Inspect(cmd.Context(), scratch) // it was written to meanwhile
	}
	if err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	r.Base, r.Revision, r.Size = i.Base.Name, i.Base.Revision, i.Base.Size
	if (i.Base.ID != image.ID{}) {
		r.ID = i.Base.ID.String()
	}
	r.Data, r.Blocks, r.Zero = i.Held.Data, i.Held.Data/overlay.BlockSize, i.Held.Zero/overlay.BlockSize
	r.Created, r.Written, r.Open = i.Created.UTC(), i.Written.UTC(), i.Open
	r.Faults = append(r.Faults, i.Faults...)
	return r, nil
}

func (r cowReport) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r cowReport) writeText(w io.Writer) error {
	of := fmt.Sprintf("%s, which is known by its size alone", r.Base)
	if r.ID != "" {
		of = fmt.Sprintf("%s revision %d, id %s", r.Base, r.Revision, r.ID)
	}
	state := "closed"
	switch {
	case r.HeldBy != 0:
		state = fmt.Sprintf("in use by process %d", r.HeldBy)
	case r.Open:
		state = "was not closed; the next use sees to that"
	}
	_, err := fmt.Fprintf(w, `file      %s
base      %s
size      %s (%d bytes)
held      %s in %d blocks, and %d zero blocks
created   %s, %v ago
written   %s, %v ago
state     %s
`,
		r.File, of, size.Format(r.Size), r.Size, size.Format(r.Data), r.Blocks, r.Zero, r.Created.Format(time.RFC3339), age(r.Created),
		r.Written.Format(time.RFC3339), age(r.Written), state)
	return err
}

func (r cowReport) writeCheck(w io.Writer) error {
	if len(r.Faults) == 0 {
		_, err := fmt.Fprintf(w, "%s: all metadata is as its checksums say; %d blocks are written, %d zero\n", r.File, r.Blocks,
			r.Zero)
		return err
	}
	for _, f := range r.Faults {
		if _, err := fmt.Fprintf(w, "at byte %d: %s\n", f.Offset, f.What); err != nil {
			return err
		}
	}
	if r.Open {
		_, err := fmt.Fprintf(w, "%s: it was not closed, and a flush that was under way did not end; "+
			"what was flushed before is whole\n", r.File)
		return err
	}
	return nil
}
