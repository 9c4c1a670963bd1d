package main

import (
	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/cmd/dnbd/internal/manpage"
)

// manCommand is `dnbd man`, which the build uses.
func manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages of all commands to a directory",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			for _, c := range []*cobra.Command{root, oldServerCommand(), oldClientCommand()} {
				if err := manpage.Write(args[0], c, version); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
