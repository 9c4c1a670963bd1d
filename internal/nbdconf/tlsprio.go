package nbdconf

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// TLSVersions is what of the key tlsprio can be honoured: which versions of TLS are offered. A GnuTLS priority string says
// much more; a string that does is refused, for Go chooses ciphers, curves and signatures itself.
type TLSVersions struct {
	Min, Max uint16 // as in crypto/tls: tls.VersionTLS12 or tls.VersionTLS13
}

// versionsNamed returns the versions that the name behind VERS- stands for, or nil when it is unknown. NBD asks for TLS 1.2
// or later, so that the older ones may be named but are never offered.
func versionsNamed(name string) []uint16 {
	switch name {
	case "TLS1.0":
		return []uint16{tls.VersionTLS10}
	case "TLS1.1":
		return []uint16{tls.VersionTLS11}
	case "TLS1.2":
		return []uint16{tls.VersionTLS12}
	case "TLS1.3":
		return []uint16{tls.VersionTLS13}
	case "ALL", "TLS-ALL":
		return []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13}
	}
	return nil
}

// priorities are the strings that are written: the default of nbd-server since 3.25 and that of the versions before it
// among them.
var priorities = map[TLSVersions]string{
	{tls.VersionTLS12, tls.VersionTLS13}: "NORMAL:+VERS-TLS-ALL:-VERS-TLS1.0:-VERS-TLS1.1:%SERVER_PRECEDENCE",
	{tls.VersionTLS12, tls.VersionTLS12}: "NORMAL:-VERS-TLS-ALL:+VERS-TLS1.2:%SERVER_PRECEDENCE",
	{tls.VersionTLS13, tls.VersionTLS13}: "NORMAL:-VERS-TLS-ALL:+VERS-TLS1.3:%SERVER_PRECEDENCE",
}

// MarshalText writes a priority string that UnmarshalText reads back.
func (v TLSVersions) MarshalText() ([]byte, error) {
	text, ok := priorities[v]
	if !ok {
		return nil, fmt.Errorf("no priority string for TLS versions %#x to %#x", v.Min, v.Max)
	}
	return []byte(text), nil
}

// UnmarshalText reads a priority string of the form NORMAL, then any of +VERS-…, -VERS-…, !VERS-… and %SERVER_PRECEDENCE.
func (v *TLSVersions) UnmarshalText(text []byte) error {
	words := strings.Split(string(text), ":")
	if words[0] != "NORMAL" {
		return fmt.Errorf("the priority string begins with %q; only NORMAL can be honoured", clip(words[0]))
	}
	offered := map[uint16]bool{tls.VersionTLS12: true, tls.VersionTLS13: true}
	for _, word := range words[1:] {
		// Go lets the server choose among ciphers by itself.
		if word == "%SERVER_PRECEDENCE" {
			continue
		}
		sign, name, ok := strings.Cut(word, "VERS-")
		if !ok || !slices.Contains([]string{"+", "-", "!"}, sign) {
			return fmt.Errorf("the priority string has %q; only +VERS-…, -VERS-… and %%SERVER_PRECEDENCE can be honoured, "+
				"ciphers are chosen by the server itself", clip(word))
		}
		named := versionsNamed(name)
		if named == nil {
			return fmt.Errorf("the priority string names a version %q; TLS1.0 to TLS1.3 and TLS-ALL can be honoured", clip(name))
		}
		for _, version := range named {
			offered[version] = sign == "+"
		}
	}
	switch v12, v13 := offered[tls.VersionTLS12], offered[tls.VersionTLS13]; {
	case v12 && v13:
		*v = TLSVersions{tls.VersionTLS12, tls.VersionTLS13}
	case v13:
		*v = TLSVersions{tls.VersionTLS13, tls.VersionTLS13}
	case v12:
		*v = TLSVersions{tls.VersionTLS12, tls.VersionTLS12}
	default:
		return errors.New("the priority string leaves neither TLS1.2 nor TLS1.3, and NBD asks for one of them")
	}
	return nil
}
