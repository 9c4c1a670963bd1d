package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is dnbd's, by the rules of semver.org.
const version = "0.1.0"

// versionCommand is `dnbd version`.
func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version, the commit it was built from, and by what",
		Example: "  dnbd version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "dnbd %s\n", versionText())
			return err
		},
	}
}

// versionText is the version with what the build knows about itself.
func versionText() string {
	text := version
	if info, ok := debug.ReadBuildInfo(); ok {
		setting := map[string]string{}
		for _, s := range info.Settings {
			setting[s.Key] = s.Value
		}
		if commit := setting["vcs.revision"]; commit != "" {
			text += " (commit " + commit[:min(len(commit), 12)]
			if setting["vcs.modified"] == "true" {
				text += ", modified"
			}
			text += ")"
		}
	}
	return fmt.Sprintf("%s %s %s/%s", text, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
