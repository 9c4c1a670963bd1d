package main

import (
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/client"
	"github.com/dnbd/dnbd/internal/seal"
	"github.com/dnbd/dnbd/internal/udp"
)

// groupFlags are the flags of every command that talks to a group.
type groupFlags struct {
	iface string
	key   string // a file; empty: the group has none
}

// add gives them to a command.
func (f *groupFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.iface, "iface", "", "use only the network interface called `NAME` (default: all that can multicast)")
	cmd.Flags().StringVar(&f.key, "group-key", "", "the group's messages are sealed with the key in `FILE`, which 'dnbd key new' makes")
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
	n := client.Network{Group: group, Interfaces: interfaces, Log: log}
	if f.key != "" {
		if n.Keys, err = seal.Open(f.key); err != nil {
			return client.Network{}, fmt.Errorf("--group-key: %w", err)
		}
	}
	return n, nil
}

// interfaceNames are the names of a network's interfaces.
func interfaceNames(interfaces []udp.Interface) []string {
	names := make([]string, len(interfaces))
	for i, ifi := range interfaces {
		names[i] = ifi.Name
	}
	return names
}
