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
	"github.com/dnbd/dnbd/internal/udp"
	"github.com/dnbd/dnbd/nbd"
)

// groupFlags are the flags of every command that talks to a group.
type groupFlags struct {
	iface string
}

// add gives them to a command.
func (f *groupFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.iface, "iface", "", "use only the network interface called `NAME` (default: all that can multicast)")
}

// network is the group on the interfaces that the flags name.
func (f *groupFlags) network(group netip.AddrPort, log *slog.Logger) (client.Network, error) {
	if err := udp.CheckGroup(group.Addr()); err != nil {
		return client.Network{}, err
	}
	interfaces, err := udp.Interfaces(f.iface, group.Addr())
	if err != nil {
		if f.iface != "" {
			err = fmt.Errorf("--iface: %w", err)
		}
		return client.Network{}, err
	}
	log.Debug("network", "group", group, "interfaces", interfaces)
	return client.Network{Group: group, Interfaces: interfaces, Log: log}, nil
}

// clientFlags are the flags of every command that reads images.
type clientFlags struct {
	groupFlags
	hosts []string // HOST[:PORT]
	tls   tlsFlags
}

// add gives them to a command.
func (f *clientFlags) add(cmd *cobra.Command) {
	f.groupFlags.add(cmd)
	cmd.Flags().StringArrayVar(&f.hosts, "unicast", nil, "read over NBD from the server at `HOST[:PORT]`, without multicast, where the group cannot be\n"+
		"reached; may be repeated, for servers that stand in for each other")
	f.tls.add(cmd)
}

// check looks for what contradicts each other. name is what is to be read, or empty; remote says that it is an NBD URI.
func (f *clientFlags) check(name string, remote bool) error {
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
func (f *clientFlags) network(t *target.Target, log *slog.Logger) (n client.Network, err error) {
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

// interfaceNames are the names of a network's interfaces.
func interfaceNames(interfaces []udp.Interface) []string {
	names := make([]string, len(interfaces))
	for i, ifi := range interfaces {
		names[i] = ifi.Name
	}
	return names
}
