package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/seal"
)

// keyCommand is `dnbd key`.
func keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make keys, which keep strangers out of a group",
		Long: "Make keys for --group-key: a group whose servers and clients have a key tells those who lack it nothing, and does not\n" +
			"listen to them. A file of keys is text, a line for each: the first one seals, all open. To change keys, give every\n" +
			"machine the file with another key added, then the file with that key's line first, then without the old one.",
	}
	cmd.AddCommand(keyNewCommand(), keyListCommand())
	return cmd
}

// keyNewCommand is `dnbd key new`.
func keyNewCommand() *cobra.Command {
	var add bool
	cmd := &cobra.Command{
		Use:   "new [--add] FILE",
		Short: "Make a file with a new group key",
		Long: "Make FILE with a new key, readable by its owner only, and print the key's id. Copy the file to every machine of the\n" +
			"group by a way that nobody listens to.",
		Example: "  dnbd key new /etc/dnbd/group.key\n  dnbd key new --add /etc/dnbd/group.key",
		Args:    oneArgument("name the file to make"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var key seal.Key
			var err error
			if add {
				key, err = addKey(args[0])
			} else {
				key, err = seal.Create(args[0])
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), key.Name())
			return err
		},
	}
	cmd.Flags().BoolVar(&add, "add", false, "add the key to the end of FILE, which is there: it opens, and seals once its line is the first")
	return cmd
}

// addKey adds a new key to a file of keys.
func addKey(path string) (seal.Key, error) {
	keys, err := seal.ReadFile(path)
	if err != nil {
		return seal.Key{}, err
	}
	key := seal.NewKey()
	return key, seal.Replace(path, append(keys, key))
}

// keyListCommand is `dnbd key list`.
func keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list FILE",
		Short:   "List the ids of a file's keys",
		Long:    "List the ids of the keys in FILE, and what they are for. The keys themselves are not shown.",
		Example: "  dnbd key list /etc/dnbd/group.key",
		Args:    oneArgument("name the file of keys"),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := seal.ReadFile(args[0])
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			use := "seals and opens"
			for _, k := range keys {
				fmt.Fprintf(table, "%s\t%s\n", k.Name(), use)
				use = "opens"
			}
			return table.Flush()
		},
	}
}
