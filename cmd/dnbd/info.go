package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/server"
	"github.com/dnbd/dnbd/internal/size"
	"github.com/dnbd/dnbd/nbd"
)

// infoCommand is `dnbd info`.
func infoCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info NBD-URI",
		Short: "Tell what an NBD server says of an export",
		Long: "Tell what an NBD server says of an export: its size, what may be done with it, and which sizes of requests suit it.\n" +
			"'dnbd list' tells which exports there are, 'dnbd image info' what there is to know of an image's file.",
		Example: "  dnbd info nbd://storage/disk\n  dnbd info --json 'nbd+unix:///?socket=/run/disk.sock'",
		Args:    oneArgument("name the export by its NBD URI"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := nbd.ParseURI(args[0]); err != nil {
				return usagef("%w", err)
			}
			c, err := nbd.Dial(cmd.Context(), args[0], nbd.DialConfig{Contexts: []string{nbd.ContextAllocation, server.HashContext}})
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
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
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
func listRemote(ctx context.Context, w io.Writer, uri string, asJSON bool) error {
	if _, err := nbd.ParseURI(uri); err != nil {
		return usagef("%w", err)
	}
	found, err := nbd.List(ctx, uri, nbd.DialConfig{})
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
