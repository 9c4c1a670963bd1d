package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/size"
)

// statusCommand is `dnbd status`.
func statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [DEVICE]",
		Short: "Show what is attached and served on this machine",
		Long: "Show what is attached and served on this machine, and what it has read, cached, heard and sent so far: DEVICE, or\n" +
			"everything. Control sockets that were left by processes that were killed are named and removed.",
		Example:           "  dnbd status\n  dnbd status --json /dev/dnbd0",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := statusOf(cmd.Context(), args)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(s)
			} else {
				err = s.write(cmd.OutOrStdout())
			}
			for _, u := range s.Unreachable {
				err = errors.Join(err, errors.New(u.Error))
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// machineStatus is what status prints as JSON; a contract with users.
type machineStatus struct {
	API         int              `json:"api"`
	Attachments []control.Status `json:"attachments"`
	Servers     []control.Status `json:"servers"`
	Unreachable []unreachable    `json:"unreachable"` // processes that do not answer
	Removed     []string         `json:"removed"`     // sockets of processes that were killed
}

// unreachable is a process that does not say what it is doing.
type unreachable struct {
	Socket string `json:"socket"`
	Error  string `json:"error"`
}

// statusOf asks the processes of this machine, or the one that serves the device that args name.
func statusOf(ctx context.Context, args []string) (*machineStatus, error) {
	s := &machineStatus{
		API: control.API, Attachments: []control.Status{}, Servers: []control.Status{}, Unreachable: []unreachable{},
		Removed: []string{},
	}
	if len(args) > 0 {
		p, err := findAttachment(ctx, args[0])
		if err != nil {
			return nil, err
		}
		s.Attachments = append(s.Attachments, p.Status)
		return s, nil
	}
	processes, dead, err := control.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		switch {
		case p.Err != nil:
			s.Unreachable = append(s.Unreachable, unreachable{p.Path, p.Err.Error()})
		case p.Status.Attachment != nil:
			s.Attachments = append(s.Attachments, p.Status)
		case p.Status.Server != nil:
			s.Servers = append(s.Servers, p.Status)
		}
	}
	for _, path := range dead {
		if err := control.Remove(path); err != nil {
			return nil, err
		}
		s.Removed = append(s.Removed, path)
	}
	return s, nil
}

// write prints the status for people.
func (s *machineStatus) write(w io.Writer) error {
	var b strings.Builder
	for _, st := range s.Attachments {
		writeAttachment(&b, st)
	}
	for _, st := range s.Servers {
		writeServer(&b, st)
	}
	for _, path := range s.Removed {
		fmt.Fprintf(&b, "%s was left by a process that was killed; removed. 'dnbd detach' cleans up after its device.\n", path)
	}
	if b.Len() == 0 && len(s.Unreachable) == 0 {
		b.WriteString("nothing is attached or served on this machine\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeAttachment(b *strings.Builder, st control.Status) {
	a := st.Attachment
	if a.Image.ID == "" {
		writeRemote(b, st)
		return
	}
	fmt.Fprintf(b, "%s  %s revision %d, %s, driver %s, process %d for %v\n", a.Device, a.Image.Name, a.Image.Revision,
		size.Format(a.Image.Size), a.Driver, st.PID, age(st.Started))
	if st.Group == "" {
		fmt.Fprintf(b, "  image     %s without a group\n", a.Image.ID)
	} else {
		fmt.Fprintf(b, "  image     %s in group %s on %s\n", a.Image.ID, st.Group, strings.Join(st.Interfaces, ", "))
	}
	if a.URI != "" {
		fmt.Fprintf(b, "  uri       %s\n", a.URI)
	}
	in := "memory"
	if a.Cache.File != "" {
		in = a.Cache.File
	}
	fmt.Fprintf(b, "  cache     %s of %s used, in %s; %d hits, %d misses, %d replaced, %d bad\n", size.Format(a.Cache.Used),
		size.Format(a.Cache.Capacity), in, a.Cache.Hits, a.Cache.Misses, a.Cache.Replaced, a.Cache.Bad)
	writeOverlay(b, a.Overlay)
	t := a.Traffic
	fmt.Fprintf(b, "  read      %s by programs, %d reads failed, %d blocks are waited for\n", bytesOf(t.Read), t.Errors, a.Waiting)
	fmt.Fprintf(b, "  received  %s asked for, %s overheard, %s repaired, %s duplicate\n", bytesOf(t.Wanted), bytesOf(t.Overheard),
		bytesOf(t.Repaired), bytesOf(t.Duplicates))
	if st.Group == "" {
		fmt.Fprintf(b, "  unicast   %s were read over NBD\n", bytesOf(t.Fetched))
	} else if a.Slow && a.OverNBD {
		fmt.Fprintf(b, "  unicast   the group is faster than this machine's link: reading over NBD, %s so far\n", bytesOf(t.Fetched))
	} else if a.Slow {
		b.WriteString("  slow      the group is faster than this machine's link, and nothing can be read over NBD instead\n")
	} else if a.OverNBD {
		fmt.Fprintf(b, "  unicast   no multicast data arrives: reading over NBD until it does, %s so far\n", bytesOf(t.Fetched))
	} else if t.Fetched > 0 {
		fmt.Fprintf(b, "  unicast   %s were read over NBD: what nobody else wants, or while no multicast data arrived\n", bytesOf(t.Fetched))
	}
	fmt.Fprintf(b, "  lost      %d blocks refused by their hash, %d datagrams dropped by the kernel\n", t.Refused, t.Drops)
	for _, r := range a.Replicas {
		if st.Group == "" {
			fmt.Fprintf(b, "  server    %s is %s, share %.0f %%\n", r.Address, r.State, 100*r.Share)
			continue
		}
		fmt.Fprintf(b, "  server    %d at %s is %s, RTT %v, share %.0f %%, rate %s\n", r.Server, r.Address, r.State,
			time.Duration(r.RTT)*time.Microsecond, 100*r.Share, size.FormatRate(int64(r.Rate)))
	}
	if len(a.Replicas) == 0 {
		b.WriteString("  server    none that has the image is heard\n")
	}
	writeSeals(b, st.Keys, t.Unopened)
	writeKernel(b, a.Kernel)
	if st.Log != "" {
		fmt.Fprintf(b, "  log       %s\n", st.Log)
	}
}

func writeServer(b *strings.Builder, st control.Status) {
	if st.Group == "" {
		fmt.Fprintf(b, "server without a group, process %d for %v\n", st.PID, age(st.Started))
	} else {
		fmt.Fprintf(b, "server %d  group %s, process %d for %v\n", st.Server.ID, st.Group, st.PID, age(st.Started))
	}
	for _, m := range st.Server.Images {
		withdrawn := ""
		if m.Withdrawn {
			withdrawn = " (withdrawn)"
		}
		fmt.Fprintf(b, "  image     %s revision %d, %s, id %s, from %s%s\n", m.Name, m.Revision, size.Format(m.Size), m.ID, m.File,
			withdrawn)
	}
	for _, l := range st.Server.Links {
		fmt.Fprintf(b, "  %-9s %s, %d clients, %d of them slow, rate %s, %d symbols queued\n", l.Interface, l.Address, l.Clients, l.Slow,
			size.FormatRate(int64(l.Rate)), l.Queued)
		fmt.Fprintf(b, "            sent %s: %d blocks, %d symbols of parity asked for and %d unasked\n", bytesOf(l.Sent), l.Blocks,
			l.Repairs, l.Parity)
		fmt.Fprintf(b, "            %d requests: %d blocks merged, %d suppressed, %d refused; %d denied, %d malformed, %d dropped by the kernel\n",
			l.Wants, l.Merged, l.Suppressed, l.Refused, l.Denied, l.Malformed, l.Drops)
		switch q := l.Querier; {
		case q == nil:
		case q.Asking:
			fmt.Fprintf(b, "            asks hosts for their memberships by %s\n", q.Protocol)
		default:
			fmt.Fprintf(b, "            asks nobody for memberships by %s: %s does\n", q.Protocol, q.Other)
		}
		writeSeals(b, st.Keys, l.Unopened)
	}
	if n := st.Server.NBD; n != nil {
		for _, x := range n.Exports {
			fmt.Fprintf(b, "  export    %s, %s, from %s\n", x.Name, x.Access, x.File)
		}
		fmt.Fprintf(b, "  nbd       %s; %d connections, %d requests answered, %d failed, %s sent\n", strings.Join(n.URIs, ", "),
			n.Connections, n.Requests, n.Failed, bytesOf(uint64(n.Bytes)))
	}
}

// writeSeals prints which keys there are, and what was not let in without them.
func writeSeals(b *strings.Builder, keys []string, u control.Seals) {
	if len(keys) == 0 {
		return
	}
	fmt.Fprintf(b, "  keys      %s; not let in: %d datagrams under other keys, %d not sealed, %d forged, %d replayed\n", strings.Join(keys, ", "),
		u.Foreign, u.Plain, u.Forged, u.Replayed)
}

// bytesOf writes an amount of bytes that is counted.
func bytesOf(n uint64) string { return size.Format(int64(min(n, 1<<62))) }

// age is how long ago something was, in whole seconds.
func age(t time.Time) time.Duration { return time.Since(t).Round(time.Second) }

// writeOverlay prints for people what keeps the writes to an attachment, if there are any.
func writeOverlay(b *strings.Builder, o *control.Overlay) {
	if o != nil {
		fmt.Fprintf(b, "  overlay   %s written and %s made zero, in %s\n", size.Format(o.Data), size.Format(o.Zero), o.File)
	}
}
