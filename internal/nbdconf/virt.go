package nbdconf

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// VirtKind is how the address of a client becomes part of a file's name.
type VirtKind int

// The kinds of nbd-server(5), virtstyle. The default is the zero value.
const (
	IPLiteral VirtKind = iota // %s is the address: 192.168.1.100
	NoVirt                    // the name is used as it is, whatever it holds
	IPHash                    // %s is the address with slashes for its dots: 192/168/1/100
	CIDRHash                  // %s is the network and the address: 192.168.0.0/192.168.1.100
)

var virtNames = [...]string{IPLiteral: "ipliteral", NoVirt: "none", IPHash: "iphash", CIDRHash: "cidrhash"}

// VirtStyle is the value of the key virtstyle.
type VirtStyle struct {
	Kind VirtKind
	// Bits is the length of the network's mask for CIDRHash, 0 to 128; an IPv4 client's has at most 32.
	Bits int
}

// MarshalText writes the style as the configuration file has it.
func (v VirtStyle) MarshalText() ([]byte, error) {
	if v.Kind < 0 || int(v.Kind) >= len(virtNames) {
		return nil, fmt.Errorf("no virtstyle %d", v.Kind)
	}
	text := virtNames[v.Kind]
	if v.Kind == CIDRHash {
		text += " " + strconv.Itoa(v.Bits)
	}
	return []byte(text), nil
}

// UnmarshalText reads none, ipliteral, iphash or cidrhash N.
func (v *VirtStyle) UnmarshalText(text []byte) error {
	words := strings.Fields(string(text))
	for kind, name := range virtNames {
		if len(words) == 0 || words[0] != name {
			continue
		}
		switch kind := VirtKind(kind); {
		case kind != CIDRHash && len(words) == 1:
			*v = VirtStyle{Kind: kind}
			return nil
		case kind == CIDRHash && len(words) == 2:
			bits, err := parseNumber(words[1], 0, 128)
			if err != nil {
				return fmt.Errorf("cidrhash needs the length of a mask: %w", err)
			}
			*v = VirtStyle{Kind: kind, Bits: int(bits)}
			return nil
		}
	}
	return fmt.Errorf("%q is not a style: none, ipliteral, iphash or cidrhash N", clip(string(text)))
}

// unixClient stands for the address of a client that has none.
const unixClient = "unix"

// ExpandName returns the file that an export with this exportname serves to a client. A zero address is a client on a unix
// socket. With any style but none, %s stands for the client, at most once, and %% for a percent sign: nbd-server hands the
// name to printf, so that other uses of % crash it; here they are errors.
//
// Two differences to nbd-server 3.24, as run: cidrhash gives the network, as nbd-server(5) says, where nbd-server clears the
// wrong half of the address; and the manual's IPv6 addresses without :: are written with it, as nbd-server does.
func ExpandName(exportname string, style VirtStyle, client netip.Addr) (string, error) {
	if style.Kind == NoVirt {
		return exportname, nil
	}
	return expandPercent(exportname, style.client(client))
}

// client returns what replaces %s.
func (v VirtStyle) client(addr netip.Addr) string {
	if !addr.IsValid() {
		return unixClient
	}
	addr = addr.Unmap()
	switch v.Kind {
	case IPHash:
		return strings.ReplaceAll(addr.String(), ".", "/")
	case CIDRHash:
		network, err := addr.WithZone("").Prefix(min(max(v.Bits, 0), addr.BitLen()))
		if err != nil {
			// Not reached: the length fits the address, and it has no zone.
			return addr.String()
		}
		return network.Addr().String() + "/" + addr.String()
	default:
		return addr.String()
	}
}

var errPercent = errors.New("% must be followed by s, at most once, for the client's address; write %% for a percent sign, " +
	"or set virtstyle = none")

// expandPercent replaces the one %s by text, and each %% by %.
func expandPercent(name, text string) (string, error) {
	var b strings.Builder
	used := false
	for i := 0; i < len(name); i++ {
		if name[i] != '%' {
			b.WriteByte(name[i])
			continue
		}
		i++
		switch {
		case i < len(name) && name[i] == '%':
			b.WriteByte('%')
		case i < len(name) && name[i] == 's' && !used:
			used = true
			b.WriteString(text)
		default:
			return "", fmt.Errorf("%s: %w", clip(name), errPercent)
		}
	}
	return b.String(), nil
}

// ExpandCommand returns the command of prerun or postrun for the file that is served: each %s is the file, unquoted, as
// nbd-server has it. The command is for a shell.
func ExpandCommand(command, file string) string {
	return strings.ReplaceAll(command, "%s", file)
}
