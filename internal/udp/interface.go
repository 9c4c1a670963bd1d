package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Interface is a network interface with the address that we send from on it.
type Interface struct {
	Index int
	Name  string
	// Addr is of the group's family. A link-local IPv6 address has the interface as its zone.
	Addr netip.Addr
	// MTU is in bytes and includes the IP header.
	MTU int
}

// CheckGroup returns an error unless a is a multicast address.
func CheckGroup(a netip.Addr) error {
	if a.Unmap().IsMulticast() {
		return nil
	}
	example := "239.0.0.0/8 (RFC 2365), such as 239.0.0.1"
	if a.Is6() && !a.Is4In6() {
		example = "ff15::/16 (RFC 4291), such as ff15::1"
	}
	return fmt.Errorf("group %v is not a multicast address: take one of %s", a, example)
}

// Interfaces returns the interface called name, or, for an empty name, every one that is up, can multicast and has an
// address of group's family. The loopback interface is returned when it is named, or when there is no other.
// An error says what is wrong with the interface, or which there are.
func Interfaces(name string, group netip.Addr) ([]Interface, error) {
	if err := CheckGroup(group); err != nil {
		return nil, err
	}
	group = group.Unmap()
	if name == "" {
		name = group.Zone()
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	if name != "" {
		for _, ifi := range all {
			if ifi.Name == name {
				i, err := usable(ifi, group)
				if err != nil {
					return nil, err
				}
				return []Interface{i}, nil
			}
		}
		return nil, fmt.Errorf("no such interface %s; there are: %s", name, names(all))
	}

	var found, loopback []Interface
	var why []error
	for _, ifi := range all {
		i, err := usable(ifi, group)
		switch {
		case err != nil:
			why = append(why, err)
		case ifi.Flags&net.FlagLoopback != 0:
			loopback = append(loopback, i)
		default:
			found = append(found, i)
		}
	}
	if len(found) == 0 {
		found = loopback
	}
	if len(found) == 0 {
		if len(why) == 0 {
			return nil, errors.New("no interface can multicast: there are none")
		}
		return nil, fmt.Errorf("no interface can multicast to %v: %w", group, joined(why))
	}
	return found, nil
}

// usable returns ifi with its address of group's family, or why it cannot carry the group.
func usable(ifi net.Interface, group netip.Addr) (Interface, error) {
	if ifi.Flags&net.FlagUp == 0 {
		return Interface{}, fmt.Errorf("%s is down", ifi.Name)
	}
	// Linux does not mark its loopback interface as able to multicast, although it is.
	if ifi.Flags&(net.FlagMulticast|net.FlagLoopback) == 0 {
		return Interface{}, fmt.Errorf("%s cannot multicast", ifi.Name)
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return Interface{}, fmt.Errorf("list addresses of %s: %w", ifi.Name, err)
	}
	var best netip.Addr
	for _, a := range addrs {
		prefix, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, _ := netip.AddrFromSlice(prefix.IP)
		addr = addr.Unmap()
		if addr.Is4() != group.Is4() || !addr.IsValid() {
			continue
		}
		if addr.IsLinkLocalUnicast() && addr.Is6() {
			addr = addr.WithZone(ifi.Name)
		}
		// The first address is the interface's primary one; one that is valid beyond the link is better.
		if !best.IsValid() || best.IsLinkLocalUnicast() && !addr.IsLinkLocalUnicast() {
			best = addr
		}
	}
	if !best.IsValid() {
		return Interface{}, fmt.Errorf("%s has no %s address", ifi.Name, family(group))
	}
	return Interface{Index: ifi.Index, Name: ifi.Name, Addr: best, MTU: ifi.MTU}, nil
}

// payload is how many bytes of UDP payload fit i's MTU, 0 if that is not known.
func (i Interface) payload() int {
	headers := 20 + 8 // RFC 791, RFC 768
	if i.Addr.Is6() {
		headers = 40 + 8 // RFC 8200
	}
	return max(0, i.MTU-headers)
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

func names(all []net.Interface) string {
	var s []string
	for _, ifi := range all {
		s = append(s, ifi.Name)
	}
	return strings.Join(s, ", ")
}

// joined is errors.Join on one line.
func joined(errs []error) error {
	err := errs[0]
	for _, e := range errs[1:] {
		err = fmt.Errorf("%w; %w", err, e)
	}
	return err
}
