//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"
)

// parallel is how many hosts are set up at once: what they wait for is the kernel, and its locks.
const parallel = 4

// build makes the namespaces, the switch, and the wires.
func (l *Lab) build(o Options) error {
	var add, wires, shape strings.Builder
	for _, h := range l.hosts {
		if h.vm {
			// The queue is the machine's memory of received packets: an emulated one is often late to fetch them.
			fmt.Fprintf(&wires, "tuntap add dev %s mode tap\nlink set %[1]s mtu %d txqueuelen 10000\n", h.name, l.MTU)
		} else {
			fmt.Fprintf(&add, "netns add %s%s\n", l.prefix, h.name)
			fmt.Fprintf(&wires, "link add %s mtu %d type veth peer name eth0 mtu %d netns %s%s\n",
				h.name, l.MTU, l.MTU, l.prefix, h.name)
		}
		fmt.Fprintf(&wires, "link set %s master %s up\n", h.name, bridgeName)
		fmt.Fprintf(&shape, "qdisc add dev %s %s\n", h.name, rootQdisc)
	}
	if err := run(add.String(), "ip", "-batch", "-"); err != nil {
		return err
	}
	if err := l.quiet(Switch); err != nil {
		return err
	}
	if err := l.inSwitch(l.bridge(o.NoQuerier), "ip"); err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(parallel)
	for _, h := range l.hosts {
		if !h.vm {
			g.Go(func() error { return l.quiet(h.name) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := l.inSwitch(wires.String(), "ip"); err != nil {
		return err
	}
	if err := l.inSwitch(shape.String(), "tc"); err != nil {
		return err
	}
	for i, h := range l.hosts {
		g.Go(func() error {
			if !h.vm {
				if err := l.setUp(h); err != nil {
					return err
				}
			}
			if i < l.servers && o.ServerRate > 0 {
				return l.SetRate(h.name, o.ServerRate)
			}
			if i >= l.servers && o.ClientRate > 0 {
				return l.SetDownRate(h.name, o.ClientRate)
			}
			return nil
		})
	}
	return g.Wait()
}

// bridge is the batch that makes the switch. A bridge without a querier floods, and with one it filters only when the time for
// answers to the first query is over: so that is made short (100 is 1 s), and before the querier is switched on. In IGMPv2 and
// MLDv1 a host that hears another one join a group keeps silent about its own membership; as the bridge floods at first, it would
// later not be sent what it joined. IGMPv3 and MLDv2 have no such rule.
func (l *Lab) bridge(mute bool) string {
	querier := 1
	if mute {
		querier = 0
	}
	return fmt.Sprintf(`link add %[1]s type bridge mcast_snooping 1
link set %[1]s type bridge mcast_igmp_version 3 mcast_mld_version 2
link set %[1]s type bridge mcast_query_response_interval 100
link set %[1]s type bridge mcast_querier %[3]d
link set %[1]s mtu %[2]d
addr add 10.77.255.254/16 dev %[1]s
link set %[1]s up
link set lo up
`, bridgeName, l.MTU, querier)
}

// quiet switches off, for interfaces to come, what would delay addresses or add traffic that nobody asked for.
func (l *Lab) quiet(name string) error {
	return l.Do(name, func() error {
		for file, value := range map[string]string{
			"ipv6/conf/default/accept_dad":           "0",
			"ipv6/conf/default/router_solicitations": "0",
			"ipv6/conf/default/accept_ra":            "0",
			"bridge/bridge-nf-call-iptables":         "0",
			"bridge/bridge-nf-call-ip6tables":        "0",
		} {
			err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0o644)
			if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6, or without br_netfilter
				return err
			}
		}
		return nil
	})
}

// setUp gives h its addresses and routes.
func (l *Lab) setUp(h *host) error {
	batch := fmt.Sprintf(`link set lo up
addr add %v/16 brd + dev eth0
addr add %v/64 nodad dev eth0
link set eth0 up
route add 224.0.0.0/4 dev eth0
`, h.v4, h.v6)
	if err := run(batch, "ip", "-n", l.prefix+h.name, "-batch", "-"); err != nil {
		return err
	}
	return run("", "tc", strings.Fields("-n "+l.prefix+h.name+" qdisc add dev eth0 "+rootQdisc)...)
}

// inSwitch runs a batch of ip or tc commands in the switch.
func (l *Lab) inSwitch(batch, program string) error {
	return run(batch, program, "-n", l.prefix+Switch, "-batch", "-")
}
