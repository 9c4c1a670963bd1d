package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/listen"
	"github.com/dnbd/dnbd/internal/server"
	"github.com/dnbd/dnbd/nbd"
)

// exportFlags say how a server exports over NBD.
type exportFlags struct {
	addresses []string
	allow     []string
	maxConns  int
}

// add gives them to a command.
func (f *exportFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.addresses, "nbd", nil, "export over NBD at `ADDR` too, which is "+listen.Forms+"; may be repeated")
	flags.StringSliceVar(&f.allow, "allow", nil, "serve NBD clients of these networks only, `CIDR,...`; may be repeated (default: all)")
	flags.IntVar(&f.maxConns, "max-connections", 0, "serve `N` NBD connections at once (default: 512)")
}

// check looks for flags that contradict each other.
func (f *exportFlags) check(cmd *cobra.Command) error {
	for _, flag := range []string{"allow", "max-connections"} {
		if len(f.addresses) == 0 && cmd.Flags().Changed(flag) {
			return usagef("--%s is for NBD clients: say with --nbd where they connect", flag)
		}
	}
	if cmd.Flags().Changed("max-connections") && f.maxConns < 1 {
		return usagef("--max-connections %d: it is a number from 1", f.maxConns)
	}
	return nil
}

// open opens the listeners. They are the caller's to close.
func (f *exportFlags) open(ctx context.Context, log *slog.Logger) (server.NBD, error) {
	var addresses []listen.Address
	for _, s := range f.addresses {
		a, err := listen.Parse(s)
		if err != nil {
			return server.NBD{}, usagef("--nbd: %w", err)
		}
		addresses = append(addresses, a)
	}
	var networks []netip.Prefix
	for _, s := range f.allow {
		p, err := listen.ParsePrefix(s)
		if err != nil {
			return server.NBD{}, usagef("--allow: %w", err)
		}
		networks = append(networks, p)
	}
	n := server.NBD{ServerConfig: nbd.ServerConfig{Log: log, MaxConns: f.maxConns}}
	for _, a := range addresses {
		ls, err := a.Listen(ctx)
		if err != nil {
			listen.Close(n.Listeners)
			return server.NBD{}, fmt.Errorf("--nbd: %w", err)
		}
		for _, l := range ls {
			n.Listeners = append(n.Listeners, listen.Allow(l, networks, log))
			// Clients of the group know the server's address, so they can be told the port of a listener at every address.
			if tcp, ok := l.Addr().(*net.TCPAddr); ok && tcp.IP.IsUnspecified() && n.Port == 0 {
				n.Port = uint16(tcp.Port)
			}
		}
	}
	return n, nil
}
