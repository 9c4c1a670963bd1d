package main

import (
	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/control"
)

// setCommand is `dnbd set`.
func setCommand() *cobra.Command {
	var r control.Set
	cmd := &cobra.Command{
		Use:   "set [flags] DEVICE",
		Short: "Change the time limits of an attached device",
		Long: "Change the time limits of an attached device while it is in use. DEVICE is its path, or the name of its image. With\n" +
			"driver nbd the kernel counts in whole seconds.",
		Example:           "  dnbd set /dev/dnbd0 --timeout 10s --io-timeout 5m",
		Args:              deviceExpected,
		ValidArgsFunction: completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			f := cmd.Flags()
			switch {
			case !f.Changed("timeout") && !f.Changed("io-timeout"):
				return usagef("nothing to change: name --timeout or --io-timeout")
			case f.Changed("timeout") && r.Timeout <= 0, f.Changed("io-timeout") && r.IOTimeout <= 0:
				return usagef("a time limit is more than nothing, such as 30s")
			}
			p, err := findAttachment(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return p.Set(cmd.Context(), r)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&r.Timeout, "timeout", 0, "send a request again, on another connection, that was not answered for this long")
	f.DurationVar(&r.IOTimeout, "io-timeout", 0, "let reads and writes fail when no server answers for this long")
	return cmd
}
