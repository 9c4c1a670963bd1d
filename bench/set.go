//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// set is the scenarios of one page.
type set struct {
	name      string
	command   string // that measures it
	title     string
	where     string // on the machine, in a few words
	page      string // the name of its file in docs, without the ending
	chart     string // what its chart shows, if it has one
	versions  [][]string
	scenarios []scenario
}

var sets = []set{
	{
		name:    "group",
		command: "make bench",
		title:   "Benchmarks",
		where:   "in a network of namespaces",
		page:    "benchmarks",
		chart:   "What the port sent, and what loss costs",
		versions: [][]string{
			{"nbdkit", "--version"}, {"nbdcopy", "--version"}, {"qemu-nbd", "--version"}, {"dpkg-query", "-W", "udpcast"}, {"dpkg-query", "-W", "uftp"},
		},
		scenarios: []scenario{sharing, crowd, single, sealing, rate, loss, lossPeers, disjoint, broken, failover, replicas, storm},
	},
	{
		name:    "nbd",
		command: "make bench-nbd",
		title:   "NBD servers side by side",
		where:   "over unix sockets and TCP on loopback",
		page:    "benchmarks-nbd",
		versions: [][]string{
			{"nbdkit", "--version"},
			{"qemu-nbd", "--version"},
			{"dpkg-query", "-W", "nbd-server"},
			{"nbdcopy", "--version"},
			{"fio", "--version"},
		},
		scenarios: []scenario{nbdStream, nbdReads, nbdWrites, nbdLatency, nbdTLS, nbdMemory, nbdCrowd},
	},
	{
		name:      "vm",
		command:   "make bench-vm",
		title:     "Devices of real kernels",
		where:     "with emulated machines that run Debian's Linux 6.12",
		page:      "benchmarks-vm",
		versions:  [][]string{{"nbdkit", "--version"}, {"dpkg-query", "-W", "nbd-client"}, {"qemu-system-x86_64", "--version"}},
		scenarios: []scenario{vmBoot, vmClients, vmDrivers, vmOverlay, vmSurvival},
	},
}

// findSet returns the set of a name.
func findSet(name string) (set, error) {
	i := slices.IndexFunc(sets, func(s set) bool { return s.name == name })
	if i < 0 {
		return set{}, fmt.Errorf("-set %s: there are %s", name, strings.Join(setNames(), ", "))
	}
	return sets[i], nil
}

func setNames() []string {
	var names []string
	for _, s := range sets {
		names = append(names, s.name)
	}
	return names
}

// choose returns the scenarios of a list of names, or all.
func (s set) choose(list string) ([]scenario, error) {
	if list == "" {
		return s.scenarios, nil
	}
	var chosen []scenario
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(s.scenarios, func(sc scenario) bool { return sc.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only %s: the set %s has %s", name, s.name, s.names())
		}
		chosen = append(chosen, s.scenarios[i])
	}
	return chosen, nil
}

// names lists the scenarios.
func (s set) names() string {
	var names []string
	for _, sc := range s.scenarios {
		names = append(names, sc.name)
	}
	return strings.Join(names, ", ")
}

// allNames lists the scenarios of all sets.
func allNames() string {
	var lists []string
	for _, s := range sets {
		lists = append(lists, s.names()+" (set "+s.name+")")
	}
	return strings.Join(lists, "; ")
}
