package main

import (
	"context"
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
	var secure tlsFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "server [flags] HOST[:PORT] status|reload|drain|withdraw [NAME]",
		Short: "Tell a server of a group what to do, over the network",
		Long: "Tell a server of a group what to do, from any machine that has the group's key, or a certificate that the server's\n" +
			"--operators names. PORT is that of the server's requests, or with a certificate that of its --operators-at; both are\n" +
			strconv.Itoa(wire.Port) + " unless the server says another. Without --group-key and --operators servers take no commands.\n\n" +
			"status    shows what the server serves, and to how many\n" +
			"reload    has it read its keys and look at its images' files again, as SIGHUP does: a file that was put in the place\n" +
			"          of another is offered instead, and what was withdrawn is offered again\n" +
			"drain     has it send what is asked of it already, and end; clients go on from other servers at once\n" +
			"withdraw  has it no longer offer the image NAME, or NAME@REVISION; clients go on from other servers that have it",
		Example: "  dnbd server --group-key /etc/dnbd/group.key 10.0.0.2 status\n  dnbd server --group-key /etc/dnbd/group.key 10.0.0.2 withdraw debian-12@3\n" +
			"  dnbd server --tls-cert me.pem --tls-key me-key.pem --tls-ca ca.pem storage1 drain",
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
			c := wire.Command{Verb: verbs[args[1]], Name: strings.Join(args[2:], "")}
			said, err := operate(cmd.Context(), withPort(args[0]), key, secure, c)
			if err != nil || c.Verb != wire.VerbStatus {
				return err
			}
			return writeServerStatus(cmd.OutOrStdout(), said, asJSON)
		},
	}
	cmd.Flags().StringVar(&key, "group-key", "", "seal the command with the group's key, in `FILE`")
	cmd.Flags().StringVar(&secure.cert, "tls-cert", "", "connect by TLS and show the operator's certificate, a PEM `FILE`")
	cmd.Flags().StringVar(&secure.key, "tls-key", "", "the key of --tls-cert, a PEM `FILE`")
	cmd.Flags().StringVar(&secure.ca, "tls-ca", "", "trust a server with a certificate of the authorities in this PEM `FILE` (default: the system's)")
	cmd.Flags().StringVar(&secure.hostname, "tls-hostname", "", "the `NAME` in the server's certificate (default: HOST)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the status as one JSON object")
	return cmd
}

// operate has a server carry out a command, from who has the group's key or an operator's certificate.
func operate(ctx context.Context, address, key string, secure tlsFlags, c wire.Command) ([]byte, error) {
	switch {
	case key != "" && secure != tlsFlags{}:
		return nil, usagef("--group-key and the TLS flags contradict each other: name one way to prove who you are")
	case key != "":
		keys, err := seal.Open(key)
		if err != nil {
			return nil, fmt.Errorf("--group-key: %w", err)
		}
		return client.Operate(ctx, address, keys, c)
	case secure.cert == "" || secure.key == "":
		return nil, usagef("--group-key FILE, or --tls-cert and --tls-key: a server takes commands only from who has the group's key, or an operator's certificate")
	}
	config, err := secure.config()
	if err != nil {
		return nil, err
	}
	return client.OperateTLS(ctx, address, config, c)
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
