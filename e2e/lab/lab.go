//go:build linux

// Package lab builds networks out of namespaces: a switch and hosts that are wired to it, on one machine, for tests, benches and
// demonstrations with real sockets.
//
// The switch is a bridge that snoops IGMP and MLD and sends its own queries, as a managed switch does. Each host has an
// interface eth0 with an IPv4 and an IPv6 address, and multicast routed to it. Rates, losses and cuts are set per host;
// what each host sent and was sent is counted in the network, frame headers included.
//
// It needs Linux, root, and the programs ip and tc (iproute2), nsenter (util-linux), for Loss and Block nft (nftables),
// and for GSO ethtool.
package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
)

// Options describe a network. Rates are in bits per second, 0 is no limit.
type Options struct {
	Servers int // s1, s2, …; 0 is one
	Clients int // c1, c2, …
	VMs     int // v1, v2, …: ports for virtual machines (package vm), which set up their end themselves

	ServerRate int64 // what each server may send
	ClientRate int64 // what the switch sends to each client and virtual machine
	MTU        int   // 0 is 1500

	NoQuerier bool // the switch sends no queries of its own: it sends groups to all until somebody else does
}

// Lab is a network that is up. Its methods may be called from many goroutines at once.
type Lab struct {
	// MTU is that of every interface, in bytes.
	MTU int

	prefix  string // of the names of its namespaces
	hosts   []*host
	servers int
	clients int

	mu     sync.Mutex // serialises changes of the network; guards the rest
	closed bool
	tables bool // the nft table is there
}

// host is a machine in the lab. Its port at the switch has its name.
type host struct {
	name   string
	vm     bool // it has no namespace, and its port is a tap
	v4, v6 netip.Addr
	limit  [2]bool // whether a rate was set, by direction
}

// Switch is the name of the namespace with the bridge: what Command and Do run there has the ports as its interfaces.
const Switch = "sw"

// bridgeName is that of the bridge.
const bridgeName = "br0"

// maxHosts is what fits the bridge's ports (1024) and the addresses given out.
const maxHosts = 1000

// New builds a network. Close takes it down.
func New(o Options) (*Lab, error) {
	if o.Servers == 0 {
		o.Servers = 1
	}
	if o.MTU == 0 {
		o.MTU = 1500
	}
	if o.Servers < 0 || o.Clients < 0 || o.VMs < 0 || o.Servers+o.Clients+o.VMs > maxHosts {
		return nil, fmt.Errorf("build lab: %d servers, %d clients and %d virtual machines, want up to %d",
			o.Servers, o.Clients, o.VMs, maxHosts)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("build lab: network namespaces need root")
	}
	if err := removeStale(); err != nil {
		return nil, fmt.Errorf("build lab: %w", err)
	}
	l := &Lab{MTU: o.MTU, servers: o.Servers, clients: o.Clients}
	for i := range o.Servers {
		l.hosts = append(l.hosts, newHost("s", 1, i))
	}
	for i := range o.Clients {
		l.hosts = append(l.hosts, newHost("c", 10, i))
	}
	for i := range o.VMs {
		h := newHost("v", 20, i)
		h.vm = true
		l.hosts = append(l.hosts, h)
	}
	if err := l.claimPrefix(); err != nil {
		return nil, fmt.Errorf("build lab: %w", err)
	}
	if err := l.build(o); err != nil {
		return nil, errors.Join(fmt.Errorf("build lab: %w", err), l.Close())
	}
	return l, nil
}

// newHost returns the i-th host of a kind, whose addresses begin at 10.77.subnet.1.
func newHost(kind string, subnet byte, i int) *host {
	v4 := [4]byte{10, 77, subnet + byte(i/250), byte(1 + i%250)}
	v6 := [16]byte{0: 0xfd, 1: 0x77, 14: v4[2], 15: v4[3]}
	return &host{name: fmt.Sprint(kind, i+1), v4: netip.AddrFrom4(v4), v6: netip.AddrFrom16(v6)}
}

// Servers returns the names of the servers, s1 and so on.
func (l *Lab) Servers() []string { return names(l.hosts[:l.servers]) }

// Clients returns the names of the clients, c1 and so on.
func (l *Lab) Clients() []string { return names(l.hosts[l.servers:][:l.clients]) }

// VMs returns the names of the ports for virtual machines, v1 and so on: taps in the namespace Switch.
func (l *Lab) VMs() []string { return names(l.hosts[l.servers+l.clients:]) }

// MAC returns the hardware address that a virtual machine is to have. It is nil if there is no such host.
func (l *Lab) MAC(name string) net.HardwareAddr {
	h, err := l.host(name)
	if err != nil {
		return nil
	}
	v4 := h.v4.As4()
	return append(net.HardwareAddr{0x52, 0x54}, v4[:]...) // that of QEMU's own begin like this
}

// Addr returns the IPv4 address of a host; Addr6 its IPv6 address. Neither is valid if there is no such host.
func (l *Lab) Addr(name string) netip.Addr {
	h, err := l.host(name)
	if err != nil {
		return netip.Addr{}
	}
	return h.v4
}

// Addr6 returns the IPv6 address of a host.
func (l *Lab) Addr6(name string) netip.Addr {
	h, err := l.host(name)
	if err != nil {
		return netip.Addr{}
	}
	return h.v6
}

func (l *Lab) host(name string) (*host, error) {
	i := slices.IndexFunc(l.hosts, func(h *host) bool { return h.name == name })
	if i < 0 {
		return nil, fmt.Errorf("no host %s in the lab, which has %d servers (s1…), %d clients (c1…) and %d virtual machines (v1…)",
			name, l.servers, l.clients, len(l.hosts)-l.servers-l.clients)
	}
	return l.hosts[i], nil
}

func names(hosts []*host) []string {
	var s []string
	for _, h := range hosts {
		s = append(s, h.name)
	}
	return s
}

// TB is what ForTest needs of testing.TB.
type TB interface {
	Helper()
	Cleanup(func())
	Error(...any)
	Fatal(...any)
	Skip(...any)
}

// ForTest builds a network that is taken down when the test ends. Where that needs rights or programs that are missing
// the test is skipped, or, when DNBD_REQUIRE=1, failed.
func ForTest(t TB, o Options) *Lab {
	t.Helper()
	if why := Missing(); why != "" {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatal("DNBD_REQUIRE=1, and a network of namespaces " + why)
		}
		t.Skip("a network of namespaces " + why)
	}
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}
