//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// AwaitMember waits until the switch knows that host is a member of group, or ctx ends. A host that joins says so a
// moment later, and until then a switch that filters does not send it the group.
func (l *Lab) AwaitMember(ctx context.Context, host string, group netip.Addr) error {
	if _, err := l.host(host); err != nil {
		return err
	}
	const interval = 5 * time.Millisecond // the report takes some 10 ms
	for tick := time.NewTicker(interval); ; {
		is, err := l.member(host, group)
		if err != nil || is {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to be a member of %v: %w", host, group, ctx.Err())
		}
	}
}

func (l *Lab) member(host string, group netip.Addr) (bool, error) {
	groups, err := l.Memberships(host)
	return slices.Contains(groups, group), err
}

// Memberships returns the groups that the switch knows host to be a member of.
func (l *Lab) Memberships(host string) (groups []netip.Addr, err error) {
	text, err := output("", "bridge", "-n", l.prefix+Switch, "-j", "mdb", "show")
	if err != nil {
		return nil, fmt.Errorf("list memberships of %s: %w", host, err)
	}
	var tables []struct {
		MDB []struct{ Port, Grp string }
	}
	if err := json.Unmarshal(text, &tables); err != nil {
		return nil, fmt.Errorf("list memberships of %s: %w", host, err)
	}
	for _, t := range tables {
		for _, e := range t.MDB {
			if a, err := netip.ParseAddr(e.Grp); err == nil && e.Port == host {
				groups = append(groups, a)
			}
		}
	}
	return groups, nil
}
