package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/client"
	"github.com/dnbd/dnbd/internal/size"
	"github.com/dnbd/dnbd/internal/target"
	"github.com/dnbd/dnbd/internal/wire"
)

const (
	// listTime is how long list listens after the last answer that told something new, and lonelyTime how long when there is
	// none: two announcements of a server whose answer was lost.
	listTime   = 700 * time.Millisecond
	lonelyTime = 2500 * time.Millisecond
)

// listCommand is `dnbd list`.
func listCommand() *cobra.Command {
	var flags imageFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [flags] [GROUP-URI|NBD-URI]",
		Short: "List the images that a group offers, or the exports of an NBD server",
		Long: "List the images that a group offers, and by which servers. GROUP-URI is dnbd://GROUP[:PORT]/; without it the group\n" +
			"is " + target.GroupURI(target.DefaultGroup()) + ". The command fails when nothing is heard. With --trust it lists what those commands\n" +
			"would use that have the same flag, and says why not the rest.\n\n" +
			"With an NBD URI it lists the exports of that server.",
		Example: "  dnbd list\n  dnbd list --unicast storage\n  dnbd list --json dnbd://239.0.0.7/\n  dnbd list nbd://storage",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.Join(args, "")
			if err := flags.check(name, isNBD(name)); err != nil {
				return err
			}
			if isNBD(name) {
				if err := flags.without(name, "an NBD server"); err != nil {
					return err
				}
				secure, err := flags.tls.config()
				if err != nil {
					return err
				}
				return listRemote(cmd.Context(), cmd.OutOrStdout(), name, secure, asJSON)
			}
			group, err := target.ParseGroup(name)
			if err != nil {
				return usagef("%w", err)
			}
			n, err := flags.network(&target.Target{Group: group}, newLog(cmd, slog.LevelWarn))
			if err != nil {
				return err
			}
			policy, err := flags.policy(target.Target{})
			if err != nil {
				return err
			}
			d, err := survey(cmd.Context(), n)
			if err != nil {
				return err
			}
			warnFailed(n, d)
			var refused []refusal
			d.Found, refused = sift(policy, target.Target{}, d.Found)
			if len(refused) > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "dnbd: heard, and not used for --trust:%s\n", refusals(refused))
			}
			if asJSON {
				err = writeListJSON(cmd.OutOrStdout(), n, d)
			} else {
				err = writeList(cmd.OutOrStdout(), n, d)
			}
			if err == nil && len(d.Found) == 0 && len(refused) > 0 {
				return fmt.Errorf("no image is offered %v that a trusted key signed", n)
			}
			if err == nil && len(d.Found) == 0 {
				err = fmt.Errorf("no image is offered %v: %s", n, heard(n, d))
			}
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// survey asks a group what it offers, until nothing new is heard any more.
func survey(ctx context.Context, n client.Network) (client.Discovery, error) {
	quiet, cancel := context.WithCancel(ctx)
	defer cancel()
	wait := lonelyTime
	if len(n.Hosts) > 0 {
		wait = 2 * time.Minute // until each has answered, or cannot be reached
	}
	end := time.AfterFunc(wait, cancel)
	defer end.Stop()
	images, servers := 0, 0
	d, err := client.Find(quiet, n, wire.Hello{Want: wire.HelloAll}, func(d client.Discovery) bool {
		if d.Complete {
			return true
		}
		if len(d.Found) != images || len(d.Servers) != servers {
			if images, servers = len(d.Found), len(d.Servers); images > 0 {
				end.Reset(listTime)
			}
		}
		return false
	})
	if quiet.Err() != nil && ctx.Err() == nil {
		err = nil // it is our own end
	}
	return d, err
}

// warnFailed says which of the hosts that are asked in place of a group did not answer.
func warnFailed(n client.Network, d client.Discovery) {
	for _, host := range slices.Sorted(maps.Keys(d.Failed)) {
		n.Log.Warn("no answer over NBD", "host", host, "error", d.Failed[host])
	}
}

// listing is what list prints as JSON; a contract with users.
type listing struct {
	Group      string        `json:"group"`           // empty with hosts
	Hosts      []string      `json:"hosts,omitempty"` // that were asked in place of a group
	Interfaces []string      `json:"interfaces"`
	Images     []listedImage `json:"images"`
	Servers    []listedFrom  `json:"servers"`
}

type listedImage struct {
	URI       string   `json:"uri"` // empty with hosts
	Name      string   `json:"name"`
	Revision  uint64   `json:"revision"`
	ID        string   `json:"id"`
	Size      int64    `json:"size"`       // in bytes
	BlockSize int      `json:"block_size"` // in bytes
	Servers   []uint16 `json:"servers"`    // ids
}

type listedFrom struct {
	ID      uint16 `json:"id"`
	Address string `json:"address"`
}

func writeListJSON(w io.Writer, n client.Network, d client.Discovery) error {
	l := listing{
		Interfaces: interfaceNames(n.Interfaces), Hosts: n.Hosts, Images: []listedImage{}, Servers: []listedFrom{},
	}
	if n.Group.IsValid() {
		l.Group = n.Group.String()
	}
	for _, o := range target.Offers(d.Found) {
		id := o.Descriptor.ID()
		uri := ""
		if n.Group.IsValid() {
			uri = target.Target{Group: n.Group, Name: o.Descriptor.Name, Revision: o.Descriptor.Revision}.String()
		}
		l.Images = append(l.Images, listedImage{
			URI: uri, Name: o.Descriptor.Name,
			Revision: o.Descriptor.Revision, ID: id.String(), Size: o.Descriptor.Size, BlockSize: o.Descriptor.BlockSize,
			Servers: o.Servers,
		})
	}
	for addr, id := range d.Servers {
		l.Servers = append(l.Servers, listedFrom{id, addr.String()})
	}
	slices.SortFunc(l.Servers, func(a, b listedFrom) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), strings.Compare(a.Address, b.Address))
	})
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(l)
}

func writeList(w io.Writer, n client.Network, d client.Discovery) error {
	if len(d.Found) == 0 {
		return nil
	}
	if _, err := fmt.Fprintf(w, "%v:\n", n); err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "IMAGE\tSIZE\tSERVERS\tID")
	for _, o := range target.Offers(d.Found) {
		ids := make([]string, len(o.Servers))
		for i, s := range o.Servers {
			ids[i] = fmt.Sprint(s)
		}
		fmt.Fprintf(table, "%s@%d\t%s\t%s\t%s\n", o.Descriptor.Name, o.Descriptor.Revision, size.Format(o.Descriptor.Size),
			strings.Join(ids, ","), o.Descriptor.ID())
	}
	return table.Flush()
}
