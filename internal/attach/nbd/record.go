//go:build linux

package nbd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/dnbd/dnbd/internal/attach/claim"
	"github.com/dnbd/dnbd/internal/nbdkernel"
)

// recordName is a file in a claim's directory with the TCP connections of the kernel's, a line each. They outlive this process,
// and whoever has to end them later, when the server hangs, knows them from there.
const recordName = "connections"

// record writes down the connections of links and, while some of these are an earlier process's, the inherited lines.
func record(c *claim.Claim, inherited string, links []slot) error {
	var b strings.Builder
	if slices.ContainsFunc(links, func(s slot) bool { return s.link == nil && s.alive }) {
		b.WriteString(inherited)
	}
	for _, s := range links {
		if s.link != nil && s.link.local.IsValid() {
			fmt.Fprintln(&b, s.link.local, s.link.remote)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	return c.Write(recordName, []byte(b.String()))
}

// recorded returns what was written down.
func recorded(c *claim.Claim) string {
	b, _ := os.ReadFile(c.Path(recordName)) // without it some things take longer, no more
	return string(b)
}

// destroyRecorded ends the connections that were written down. That it cannot is no reason to stop: it takes longer without.
func destroyRecorded(c *claim.Claim) {
	for line := range strings.Lines(recorded(c)) {
		local, remote, _ := strings.Cut(strings.TrimSpace(line), " ")
		from, err := netip.ParseAddrPort(local)
		to, err2 := netip.ParseAddrPort(remote)
		if err == nil && err2 == nil {
			_ = nbdkernel.Destroy(from, to)
		}
	}
}

// forget removes what was written down.
func forget(c *claim.Claim) error {
	if err := os.Remove(c.Path(recordName)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
