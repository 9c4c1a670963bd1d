package nbdconf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
)

// Allowed says whether a list of networks lets a client in. A nil list lets everybody in, an empty one nobody. A zero
// address is a client on a unix socket, which no network holds.
func Allowed(list []netip.Prefix, client netip.Addr) bool {
	if list == nil {
		return true
	}
	client = client.Unmap().WithZone("")
	for _, network := range list {
		if network.Contains(client) {
			return true
		}
	}
	return false
}

// ReadAllowList reads the file of the key authfile: an address or a network a line, # for comments. It returns nil when
// there is no such file, which lets everybody in, and a list that is not nil otherwise. nbd-server reads the file at each
// connection; a server that wants that calls this.
func ReadAllowList(path string) ([]netip.Prefix, error) {
	return readAllowList(disk{}, path)
}

func readAllowList(src source, path string) ([]netip.Prefix, error) {
	data, err := src.read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, errs := parseAllowList(path, data)
	if len(errs) > 0 {
		return nil, errs
	}
	return list, nil
}

// parseAllowList reads the lines of an authfile. The list is not nil.
func parseAllowList(file string, data []byte) (list []netip.Prefix, errs Errors) {
	list = []netip.Prefix{}
	line := 0
	for raw := range bytes.Lines(data) {
		line++
		text, _, _ := strings.Cut(string(raw), "#")
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		network, err := parseNetwork(text)
		if err != nil {
			errs = append(errs, &Error{Pos: Pos{file, line}, Err: err})
			continue
		}
		list = append(list, network)
	}
	return list, errs
}

// parseNetwork reads an address, or a network whose address may have bits behind the mask. IPv4 in IPv6's clothes is IPv4.
func parseNetwork(text string) (netip.Prefix, error) {
	bad := fmt.Errorf("%q is neither an IP address nor a network like 192.168.0.0/16", clip(text))
	if !strings.Contains(text, "/") {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, bad
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, bad
	}
	if addr := network.Addr(); addr.Is4In6() && network.Bits() >= 96 {
		network = netip.PrefixFrom(addr.Unmap(), network.Bits()-96)
	}
	return network.Masked(), nil
}
