package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/server"
	"github.com/dnbd/dnbd/internal/size"
	"github.com/dnbd/dnbd/internal/target"
	"github.com/dnbd/dnbd/nbd"
)

// infoCommand is `dnbd info`.
func infoCommand() *cobra.Command {
	var flags imageFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info [flags] IMAGE|NBD-URI",
		Short: "Tell what servers say of an image, or an NBD server of an export",
		Long: "Tell what the servers of a group say of an image, or an NBD server of an export: its size, what may be done with it,\n" +
			"and which sizes of requests suit it. 'dnbd list' tells which there are, 'dnbd image info' what there is to know of an\n" +
			"image's file.\n\n" +
			"IMAGE is " + target.Forms + ".",
		Example: "  dnbd info debian-12\n  dnbd info --unicast storage debian-12\n  dnbd info nbd://storage/disk\n" +
			"  dnbd info --json 'nbd+unix:///?socket=/run/disk.sock'",
		Args: oneArgument("name the image, or the export by its NBD URI"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(args[0], isNBD(args[0])); err != nil {
				return err
			}
			if !isNBD(args[0]) {
				return infoOfImage(cmd, &flags, args[0], asJSON)
			}
			if _, err := nbd.ParseURI(args[0]); err != nil {
				return usagef("%w", err)
			}
			if err := flags.without(args[0], "an export of an NBD server"); err != nil {
				return err
			}
			secure, err := flags.tls.config()
			if err != nil {
				return err
			}
			c, err := nbd.Dial(cmd.Context(), args[0], nbd.DialConfig{
				TLS: secure, Contexts: []string{nbd.ContextAllocation, server.HashContext},
			})
			if err != nil {
				return whereToLook(args[0], err)
			}
			defer c.Close()
			info := c.Info()
			report := exportReport(args[0], info.ExportInfo)
			report.Replies = info.Replies
			if info.TLS != nil {
				report.TLS = tls.VersionName(info.TLS.Version) + " " + tls.CipherSuiteName(info.TLS.CipherSuite)
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(report)
			}
			return report.write(cmd.OutOrStdout())
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// infoOfImage prints what servers say of an image.
func infoOfImage(cmd *cobra.Command, flags *imageFlags, name string, asJSON bool) error {
	if _, err := os.Stat(name); err == nil || isFile(name) {
		return usagef("%s is a file: see 'dnbd image info'", name)
	}
	t, err := target.Parse(name)
	if err != nil {
		return usagef("%w", err)
	}
	n, err := flags.network(&t, newLog(cmd, slog.LevelWarn))
	if err != nil {
		return err
	}
	policy, err := flags.policy(t)
	if err != nil {
		return err
	}
	heard, err := survey(cmd.Context(), n)
	if err != nil {
		return err
	}
	warnFailed(n, heard)
	usable, refused := sift(policy, t, heard.Found)
	o, err := t.Choose(usable)
	if err != nil {
		if len(refused) > 0 {
			err = fmt.Errorf("%w; heard, and not used for --trust:%s", err, refusals(refused))
		}
		return err
	}
	d := o.Descriptor
	if asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(struct {
			control.Image
			Root    string    `json:"root"`
			Created time.Time `json:"created"`
			Servers []uint16  `json:"servers"` // ids
		}{imageStatus(d), d.Root.String(), d.Created.UTC(), o.Servers})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "name      %s\nrevision  %d\ncreated   %s\nid        %v\nsize      %s (%d bytes)\n"+
		"blocks    of %s\noffered   by %s %v\n", d.Name, d.Revision, d.Created.Format(time.RFC3339), d.ID(), size.Format(d.Size), d.Size,
		size.Format(int64(d.BlockSize)), target.ServerList(o.Servers), n)
	return err
}

// oneArgument demands one.
func oneArgument(text string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("%s", text)
		}
		return nil
	}
}

// nbdExport is what info and list print of an NBD export as JSON; a contract with users. Sizes are in bytes.
type nbdExport struct {
	URI            string   `json:"uri,omitempty"`
	Name           string   `json:"name"`
	Description    string   `json:"description,omitempty"`
	Size           int64    `json:"size"`
	ReadOnly       bool     `json:"read_only"`
	Rotational     bool     `json:"rotational"`
	MultiConn      bool     `json:"multi_conn"`
	Flush          bool     `json:"flush"`
	FUA            bool     `json:"fua"`
	Trim           bool     `json:"trim"`
	WriteZeroes    bool     `json:"write_zeroes"`
	FastZero       bool     `json:"fast_zero"`
	DF             bool     `json:"df"`
	Cache          bool     `json:"cache"`
	MinBlock       uint32   `json:"min_block"`
	PreferredBlock uint32   `json:"preferred_block"`
	MaxPayload     uint32   `json:"max_payload"`
	Contexts       []string `json:"contexts"`
	Replies        string   `json:"replies,omitempty"` // simple, structured or extended
	TLS            string   `json:"tls,omitempty"`     // version and cipher
}

func exportReport(uri string, i nbd.ExportInfo) nbdExport {
	return nbdExport{
		URI: uri, Name: i.Name, Description: i.Description, Size: i.Size, ReadOnly: i.ReadOnly, Rotational: i.Rotational,
		MultiConn: i.MultiConn, Flush: i.Flush, FUA: i.FUA, Trim: i.Trim, WriteZeroes: i.WriteZeroes, FastZero: i.FastZero,
		DF: i.DF, Cache: i.Cache, MinBlock: i.MinBlock, PreferredBlock: i.PreferredBlock, MaxPayload: i.MaxPayload,
		Contexts: append([]string{}, i.Contexts...),
	}
}

// abilities are the words for what may be done with the export.
func (e nbdExport) abilities() string {
	words := []string{"writable"}
	if e.ReadOnly {
		words[0] = "read-only"
	}
	for _, a := range []struct {
		has  bool
		word string
	}{
		{e.Flush, "flush"},
		{e.FUA, "fua"},
		{e.Trim, "trim"},
		{e.WriteZeroes, "write-zeroes"},
		{e.FastZero, "fast-zero"},
		{e.Cache, "cache"},
		{e.DF, "df"},
		{e.MultiConn, "multi-conn"},
		{e.Rotational, "rotational"},
	} {
		if a.has {
			words = append(words, a.word)
		}
	}
	return strings.Join(words, ", ")
}

// write prints it for people.
func (e nbdExport) write(w io.Writer) error {
	secured := "none"
	if e.TLS != "" {
		secured = e.TLS
	}
	_, err := fmt.Fprintf(w, "export     %q\nsize       %d bytes, %s\nallows     %s\nblocks     at least %d, best %d, at most %d bytes at once\n"+
		"contexts   %s\nreplies    %s\nTLS        %s\n", e.Name, e.Size, size.Format(e.Size), e.abilities(), e.MinBlock, e.PreferredBlock,
		e.MaxPayload, orNone(e.Contexts), e.Replies, secured)
	if err == nil && e.Description != "" {
		_, err = fmt.Fprintf(w, "about      %s\n", e.Description)
	}
	return err
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// listRemote prints the exports of an NBD server.
func listRemote(ctx context.Context, w io.Writer, uri string, secure *tls.Config, asJSON bool) error {
	if _, err := nbd.ParseURI(uri); err != nil {
		return usagef("%w", err)
	}
	found, err := nbd.List(ctx, uri, nbd.DialConfig{TLS: secure})
	if err != nil {
		return err
	}
	list := make([]nbdExport, 0, len(found))
	for _, i := range found {
		list = append(list, exportReport("", i))
	}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(struct {
			Server  string      `json:"server"`
			Exports []nbdExport `json:"exports"`
		}{uri, list})
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "EXPORT\tSIZE\tALLOWS\tABOUT")
	for _, e := range list {
		if e.MaxPayload == 0 { // the server tells names only
			fmt.Fprintf(table, "%q\t\t\t%s\n", e.Name, e.Description)
			continue
		}
		fmt.Fprintf(table, "%q\t%s\t%s\t%s\n", e.Name, size.Format(e.Size), e.abilities(), e.Description)
	}
	return table.Flush()
}
