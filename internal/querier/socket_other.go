//go:build !linux

package querier

import (
	"fmt"
	"net/netip"
	"runtime"
)

func listenIGMP(string, netip.Addr, timing) (socket, error) {
	return nil, fmt.Errorf("not on %s: a server on Linux can do it, or a switch", runtime.GOOS)
}

func listenMLD(name string, self netip.Addr, t timing) (socket, error) {
	return listenIGMP(name, self, t)
}
