package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/client"
	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/seal"
	"github.com/dnbd/dnbd/internal/wire"
)

// verbs are the commands to a server, by the words for them.
var verbs = map[string]wire.Verb{
	"status": wire.VerbStatus, "reload": wire.VerbReload, "drain": wire.VerbDrain, "withdraw": wire.VerbWithdraw,
}

// serverCommand is `dnbd server`.
func serverCommand() *cobra.Command {
	var key string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "server [flags] HOST[:PORT] status|reload|drain|withdraw [NAME]",
		Short: "Tell a server of a group what to do, over the network",
		Long: "Tell a server of a group what to do, from any machine that has the group's key. PORT is that of the server's requests,\n" +
			strconv.Itoa(wire.Port) + " unless the server says another. Without --group-key servers take no commands.\n\n" +
			"status    shows what the server serves, and to how many\n" +
			"reload    has it read its keys and look at its images' files again, as SIGHUP does: a file that was put in the place\n" +
			"          of another is offered instead, and what was withdrawn is offered again\n" +
			"drain     has it send what is asked of it already, and end; clients go on from other servers at once\n" +
			"withdraw  has it no longer offer the image NAME, or NAME@REVISION; clients go on from other servers that have it",
		Example: "  dnbd server --group-key /etc/dnbd/group.key 10.0.0.2 status\n  dnbd server --group-key /etc/dnbd/group.key 10.0.0.2 withdraw debian-12@3",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) < 2:
				return usagef("name the server, and what it is to do: HOST status, reload, drain or withdraw")
			case verbs[args[1]] == 0:
				return usagef("%q is nothing that a server does: say status, reload, drain or withdraw", args[1])
			case args[1] == "withdraw" && (len(args) != 3 || args[2] == "" || len(args[2]) > wire.MaxName):
				return usagef("name the image to withdraw, or NAME@REVISION")
			case args[1] != "withdraw" && len(args) > 2:
				return usagef("%s takes no %q", args[1], args[2])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if key == "" {
				return usagef("--group-key FILE: a server takes commands only from who has the group's key")
			}
			keys, err := seal.Open(key)
			if err != nil {
				return fmt.Errorf("--group-key: %w", err)
			}
			c := wire.Command{Verb: verbs[args[1]], Name: strings.Join(args[2:], "")}
			said, err := client.Operate(cmd.Context(), withPort(args[0]), keys, c)
			if err != nil || c.Verb != wire.VerbStatus {
				return err
			}
			return writeServerStatus(cmd.OutOrStdout(), said, asJSON)
		},
	}
	cmd.Flags().StringVar(&key, "group-key", "", "seal the command with the group's key, in `FILE`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the status as one JSON object")
	return cmd
}

// withPort adds the usual port to the name or address of a host that has none.
func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(wire.Port))
}

// writeServerStatus prints what a server says of itself.
func writeServerStatus(w io.Writer, said []byte, asJSON bool) error {
	if asJSON {
		_, err := fmt.Fprintf(w, "%s\n", said)
		return err
	}
	var st control.Status
	if err := json.Unmarshal(said, &st); err != nil {
		return fmt.Errorf("read the server's status: %w", err)
	}
	if st.Server == nil {
		return errors.New("the server sent a status that is not a server's")
	}
	var b strings.Builder
	writeServer(&b, st)
	_, err := io.WriteString(w, b.String())
	return err
}
