package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/cache"
	"github.com/dnbd/dnbd/internal/size"
)

// cacheCommand is `dnbd cache`: what can be done with a cache file.
func cacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Look into cache files, check them, add them to a device",
	}
	cmd.AddCommand(cacheInfoCommand(), cacheCheckCommand())
	return cmd
}

func cacheInfoCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info FILE",
		Short: "Show the geometry of a cache file and how full it is",
		Long: "Show the geometry of a cache file and how full it is, from its header and its table.\n" +
			"Nothing is changed, and the file may be in use.",
		Example: "  dnbd cache info /var/cache/dnbd",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			sum, err := cache.Info(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeCacheJSON(cmd.OutOrStdout(), sum)
			}
			return writeCacheSummary(cmd.OutOrStdout(), sum)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func cacheCheckCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Read every block of a cache file and compare it with its hash",
		Long: "Read every block of a cache file and compare it with its hash. Nothing is changed. A file in use is refused,\n" +
			"and cannot be taken into use meanwhile. The command fails when a block is bad, which costs no more than\n" +
			"fetching that block again: a device that uses the file finds out by itself.",
		Example: "  dnbd cache check /var/cache/dnbd",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			bar := newProgressBar(cmd.ErrOrStderr(), "checking")
			rep, err := cache.Check(cmd.Context(), args[0], bar.update)
			bar.end()
			if err != nil {
				return err
			}
			write := writeCacheReport
			if asJSON {
				write = func(w io.Writer, rep cache.Report) error { return writeCacheJSON(w, rep) }
			}
			if err := write(cmd.OutOrStdout(), rep); err != nil {
				return err
			}
			if rep.Bad > 0 {
				return fmt.Errorf("check cache %s: %d of %d slots are bad", args[0], rep.Bad, rep.Slots)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func writeCacheJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func writeCacheSummary(w io.Writer, sum cache.Summary) error {
	inUse := "no"
	if sum.HeldBy != 0 {
		inUse = fmt.Sprintf("by process %d", sum.HeldBy)
	}
	_, err := fmt.Fprintf(w, `file      %s, %s
format    version %d, id %s
slots     %d of %s each
held      %d blocks (%d %% of the slots), %s, %d of them overheard and not read yet
damaged   %d records
in use    %s
`,
		sum.Path, size.Format(sum.FileSize),
		sum.Version, sum.ID,
		sum.Slots, size.Format(int64(sum.SlotSize)),
		sum.Used, sum.Used*100/sum.Slots, size.Format(sum.Bytes), sum.Unread,
		sum.DamagedRecords,
		inUse)
	return err
}

func writeCacheReport(w io.Writer, rep cache.Report) error {
	if _, err := fmt.Fprintf(w, "%s: %d blocks are good, %d bad, %d slots are empty\n",
		rep.Path, rep.Good, rep.Bad, rep.Empty); err != nil {
		return err
	}
	for _, f := range rep.Faults {
		if _, err := fmt.Fprintf(w, "slot %d at byte %d: %s\n", f.Slot, f.Offset, f.Why); err != nil {
			return err
		}
	}
	if n := rep.Bad - len(rep.Faults); n > 0 {
		_, err := fmt.Fprintf(w, "and %d more\n", n)
		return err
	}
	return nil
}
