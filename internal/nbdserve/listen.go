package nbdserve

import (
	"context"
	"net"
	"strconv"

	"github.com/dnbd/dnbd/internal/listen"
	"github.com/dnbd/dnbd/internal/nbdconf"
)

// Listen opens the sockets of a configuration whose port is not stdin. They are the caller's to close.
func Listen(ctx context.Context, c *nbdconf.Config) ([]net.Listener, error) {
	var all []net.Listener
	for _, s := range addresses(c) {
		a, err := listen.Parse(s)
		if err == nil {
			var some []net.Listener
			some, err = a.Listen(ctx)
			all = append(all, some...)
		}
		if err != nil {
			listen.Close(all)
			return nil, err
		}
	}
	return all, nil
}

// addresses are where a configuration says to listen.
func addresses(c *nbdconf.Config) (all []string) {
	if c.UnixSocket != "" {
		all = append(all, "unix:"+c.UnixSocket)
		if !c.DualListen {
			return all
		}
	}
	hosts := []string(c.Listen)
	if len(hosts) == 0 {
		hosts = []string{""}
	}
	for _, host := range hosts {
		all = append(all, net.JoinHostPort(host, strconv.Itoa(c.Port)))
	}
	return all
}
