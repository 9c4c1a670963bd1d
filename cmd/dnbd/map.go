package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/size"
)

// mapCommand is `dnbd map`.
func mapCommand() *cobra.Command {
	var asJSON, totals bool
	cmd := &cobra.Command{
		Use:   "map NBD-URI|FILE",
		Short: "Tell where an NBD export or a file holds data, and where nothing",
		Long: "Tell where an NBD export, a file or a block device holds data, and where nothing. A hole takes no space; zero means that\n" +
			"it reads as zero. Where the server or the file system tells nothing, all of it is data.",
		Example: "  dnbd map nbd://storage/disk\n  dnbd map --totals ./disk.img",
		Args:    oneArgument("name an NBD URI or a file"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			d, err := deviceOf(cmd.Context(), args[0], newLog(cmd, slog.LevelWarn))
			if err != nil {
				return err
			}
			defer d.Close()
			var list []mapped
			off, end := int64(0), d.Size()
			err = block.Lower{Device: d}.Extents(cmd.Context(), 0, end, func(n int64, hole, zero bool) bool {
				n = min(n, end-off)
				if i := len(list) - 1; i >= 0 && list[i].Hole == hole && list[i].Zero == zero {
					list[i].Length += n
				} else {
					list = append(list, mapped{off, n, hole, zero})
				}
				off += n
				return true
			})
			if err != nil {
				return err
			}
			if totals {
				list = sum(list)
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(append([]mapped{}, list...))
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', tabwriter.AlignRight)
			for _, m := range list {
				if totals {
					fmt.Fprintf(table, "%d\t%s\t%.1f %%\t %s\n", m.Length, size.Format(m.Length), 100*float64(m.Length)/float64(max(end, 1)), m.kind())
					continue
				}
				fmt.Fprintf(table, "%d\t%d\t %s\n", m.Offset, m.Length, m.kind())
			}
			return table.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON array: offset, length, hole, zero")
	cmd.Flags().BoolVar(&totals, "totals", false, "print how much there is of each kind, not where")
	return cmd
}

// mapped is what map prints of a run of bytes as JSON; a contract with users.
type mapped struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
	Hole   bool  `json:"hole"`
	Zero   bool  `json:"zero"`
}

func (m mapped) kind() string {
	switch {
	case m.Hole && m.Zero:
		return "hole, zero"
	case m.Hole:
		return "hole"
	case m.Zero:
		return "zero"
	}
	return "data"
}

// sum adds up runs of the same kind.
func sum(list []mapped) []mapped {
	var out []mapped
	for _, m := range list {
		found := false
		for i := range out {
			if out[i].Hole == m.Hole && out[i].Zero == m.Zero {
				out[i].Length, found = out[i].Length+m.Length, true
			}
		}
		if !found {
			out = append(out, mapped{0, m.Length, m.Hole, m.Zero})
		}
	}
	return out
}
