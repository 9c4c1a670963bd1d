package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/size"
)

// imageCommand is `dnbd image`: what can be done with an image before it is served.
func imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Hash images, describe them, sign them and check them",
	}
	cmd.AddCommand(imageCreateCommand(), imageInfoCommand(), imageVerifyCommand(), imageSignCommand(), imageKeygenCommand())
	return cmd
}

func imageCreateCommand() *cobra.Command {
	var o image.CreateOptions
	blockSize := size.Bytes(image.DefaultBlockSize)
	cmd := &cobra.Command{
		Use:   "create FILE",
		Short: "Hash a file or block device and write its sidecar",
		Long: "Hash a file or block device and write its sidecar, FILE" + image.SidecarSuffix + ", which holds its name, revision and\n" +
			"hash tree. What no flag says is kept from the sidecar that is there; the revision counts up when the\n" +
			"content has changed.",
		Example: "  dnbd image create --name debian-12 disk.img",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("block-size") {
				o.BlockSize = int(min(blockSize, math.MaxInt32))
				if _, err := image.NewGeometry(1, o.BlockSize); err != nil {
					return fmt.Errorf("--block-size: %w", err)
				}
			}
			if cmd.Flags().Changed("name") && o.Name == "" {
				return errors.New("--name is empty; leave it out to name the image after its file")
			}
			if cmd.Flags().Changed("revision") && o.Revision == 0 {
				return errors.New("--revision 0: revisions count from 1")
			}
			bar := newProgressBar(cmd.ErrOrStderr(), "hashing")
			o.Progress = bar.update
			m, err := image.Create(cmd.Context(), args[0], o)
			bar.end()
			if err != nil {
				// With ErrSidecarNotWritten there is an image, but the sidecar was the purpose.
				return errors.Join(err, closeImage(m))
			}
			return errors.Join(reportOf(m).writeText(cmd.OutOrStdout()), m.Close())
		},
	}
	cmd.Flags().Var(&blockSize, "block-size", "divide the image into blocks of this size, a power of two from 4K to 1M")
	cmd.Flags().StringVar(&o.Name, "name", "", "call the image this (default: as the file, without its extension)")
	cmd.Flags().Uint64Var(&o.Revision, "revision", 0, "number this content so (default: 1, or one up when the content has changed)")
	return cmd
}

func imageInfoCommand() *cobra.Command {
	var asJSON, descriptor, signature bool
	cmd := &cobra.Command{
		Use:   "info FILE",
		Short: "Show an image's name, revision, id and size",
		Long: "Show an image's name, revision, id and size from its sidecar, whose own hashes are checked. The command fails\n" +
			"when there is none, or it is older than the file. Neither the file's content is read nor a signature checked: see\n" +
			"verify.",
		Example: "  dnbd image info disk.img",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := image.Open(args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			switch {
			case descriptor:
				_, err = cmd.OutOrStdout().Write(m.Descriptor().SignedText())
				return err
			case signature && len(m.Signature()) == 0:
				return fmt.Errorf("image %s: %w", m.Path(), image.ErrUnsigned)
			case signature:
				_, err = cmd.OutOrStdout().Write(m.Signature())
				return err
			case asJSON:
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(reportOf(m))
			}
			return reportOf(m).writeText(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.Flags().BoolVar(&descriptor, "descriptor", false, "print the text that signatures are made of")
	cmd.Flags().BoolVar(&signature, "signature", false, "print the signature, as a .minisig file has it")
	cmd.MarkFlagsMutuallyExclusive("json", "descriptor", "signature")
	return cmd
}

func imageVerifyCommand() *cobra.Command {
	var t trustFlags
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Hash every block anew and compare it with the sidecar",
		Long: "Hash every block of a file or block device anew and compare it with the sidecar. The blocks that differ are\n" +
			"printed as ranges, and the command fails when there are any. Nothing is changed. With --trust the sidecar must be signed\n" +
			"by one of the keys.",
		Example: "  dnbd image verify disk.img",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(t.trust) > 0 {
				s, err := image.ReadSidecar(image.SidecarPath(args[0]))
				if err == nil {
					err = t.signed(s.Descriptor, s.Signature)
				}
				if err != nil {
					return fmt.Errorf("verify image %s: %w", args[0], err)
				}
			}
			bar := newProgressBar(cmd.ErrOrStderr(), "verifying")
			v, err := image.Verify(cmd.Context(), args[0], bar.update)
			bar.end()
			if err != nil {
				return err
			}
			return writeVerification(cmd.OutOrStdout(), args[0], v)
		},
	}
	t.addKeys(cmd, "want a signature by this `KEY`, a file of minisign's or its text; may be repeated")
	return cmd
}

// imageReport is what create and info say of an image; its JSON is a contract with users.
type imageReport struct {
	File       string    `json:"file"`
	Sidecar    string    `json:"sidecar"`
	Name       string    `json:"name"`
	Revision   uint64    `json:"revision"`
	ID         string    `json:"id"`
	Root       string    `json:"root"`
	Size       int64     `json:"size"`
	BlockSize  int       `json:"block_size"`
	Blocks     uint32    `json:"blocks"`
	ZeroBlocks uint32    `json:"zero_blocks"`
	Created    time.Time `json:"created"`
	SignedBy   string    `json:"signed_by,omitempty"` // id of the key; not checked
}

func reportOf(m *image.Image) imageReport {
	d, blocks := m.Descriptor(), m.Geometry().Data()
	r := imageReport{
		File: m.Path(), Sidecar: image.SidecarPath(m.Path()), Name: d.Name, Revision: d.Revision, ID: m.ID().String(),
		Root: d.Root.String(), Size: d.Size, BlockSize: d.BlockSize, Blocks: blocks, Created: d.Created,
	}
	for b := range blocks {
		if zero, _ := m.Tree().IsZero(b); zero {
			r.ZeroBlocks++
		}
	}
	if s := m.Signature(); s != nil {
		r.SignedBy = fmt.Sprintf("%016X", image.Signer(s))
	}
	return r
}

func (r imageReport) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, `file      %s
sidecar   %s
name      %s
revision  %d
created   %s
id        %s
size      %s (%d bytes)
blocks    %d of %s, %d of them zero
`,
		r.File, r.Sidecar, r.Name, r.Revision, r.Created.Format(time.RFC3339), r.ID, size.Format(r.Size), r.Size,
		r.Blocks, size.Format(int64(r.BlockSize)), r.ZeroBlocks)
	if r.SignedBy != "" && err == nil {
		_, err = fmt.Fprintf(w, "signed    by key %s\n", r.SignedBy)
	}
	return err
}

// writeVerification prints what was found in the file at path. It is an error when blocks differ.
func writeVerification(w io.Writer, path string, v *image.Verification) error {
	g, err := v.Descriptor.Geometry()
	if err != nil {
		return err
	}
	for _, run := range v.Differing {
		first, end := g.Offset(run.First), g.Offset(run.Last)+int64(g.Len(run.Last))
		if _, err := fmt.Fprintf(w, "blocks %d-%d differ (bytes %d-%d)\n", run.First, run.Last, first, end-1); err != nil {
			return err
		}
	}
	if v.Blocks > 0 {
		return fmt.Errorf("verify image %s: %d of %d blocks are not those of %s revision %d; restore the file, or run "+
			"'dnbd image create' if it is meant to be so", path, v.Blocks, g.Data(), v.Descriptor.Name, v.Descriptor.Revision)
	}
	_, err = fmt.Fprintf(w, "%s: all %d blocks are those of %s revision %d, id %s\n", path, g.Data(), v.Descriptor.Name,
		v.Descriptor.Revision, v.Descriptor.ID())
	if v.Touched && err == nil {
		_, err = fmt.Fprintf(w, "%s: its modification time is not the sidecar's; 'dnbd image create' brings the sidecar up to date\n", path)
	}
	return err
}

func closeImage(m *image.Image) error {
	if m == nil {
		return nil
	}
	return m.Close()
}
