package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/client"
	"github.com/dnbd/dnbd/internal/target"
	"github.com/dnbd/dnbd/nbd"
)

// imageFlags are the flags of every command that uses images of a group.
type imageFlags struct {
	groupFlags
	trustFlags
	hosts []string // HOST[:PORT]
	tls   tlsFlags
}

// add gives them to a command.
func (f *imageFlags) add(cmd *cobra.Command) {
	f.groupFlags.add(cmd)
	f.trustFlags.add(cmd)
	cmd.Flags().StringArrayVar(&f.hosts, "unicast", nil, "read over NBD from the server at `HOST[:PORT]`, without multicast, where the group cannot be\n"+
		"reached; may be repeated, for servers that stand in for each other")
	f.tls.add(cmd)
}

// check looks for what contradicts each other. name is what is to be read, or empty; remote says that it is an NBD URI.
func (f *imageFlags) check(name string, remote bool) error {
	for i, s := range f.hosts {
		host, err := hostPort(s)
		if err != nil {
			return usagef("--unicast: %w", err)
		}
		f.hosts[i] = host
	}
	switch {
	case len(f.hosts) == 0:
		return nil
	case remote:
		return usagef("--unicast is for images of a group, and %s is an export of an NBD server", name)
	case f.iface != "":
		return usagef("--unicast and --iface contradict each other: without a group no interface is chosen")
	case f.key != "":
		return usagef("--unicast and --group-key contradict each other: over NBD it is --tls that keeps strangers out")
	case strings.HasPrefix(strings.ToLower(name), target.Scheme):
		return usagef("--unicast and %s contradict each other: name the image without a group", name)
	}
	return nil
}

// hostPort reads HOST[:PORT] and returns it with the port.
func hostPort(s string) (string, error) {
	if host, port, err := net.SplitHostPort(s); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); host != "" && err == nil && n > 0 {
			return s, nil
		}
	} else if host := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"); host != "" && !strings.ContainsAny(host, "[]/ ") {
		if _, err := netip.ParseAddr(host); err == nil || !strings.Contains(host, ":") {
			return net.JoinHostPort(host, strconv.Itoa(nbd.DefaultPort)), nil
		}
	}
	return "", fmt.Errorf("%.200q is not HOST or HOST:PORT", s)
}

// network is where to look for what t names: the group, or the hosts of --unicast, which t is told.
func (f *imageFlags) network(t *target.Target, log *slog.Logger) (n client.Network, err error) {
	if len(f.hosts) == 0 {
		n, err = f.groupFlags.network(t.Group, log)
	} else {
		n = client.Network{Hosts: f.hosts, Log: log}
		t.Group, t.Hosts = netip.AddrPort{}, strings.Join(f.hosts, ", ")
	}
	if err == nil {
		n.TLS, err = f.tls.config()
	}
	return n, err
}
