package nbd

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// DefaultPort is the port that IANA assigned to NBD, and the one that URIs without a port mean.
const DefaultPort = 10809

// vsockHost is the context id of the hypervisor, which a URI nbd+vsock:/// without one means, vsock(7).
const vsockHost = "2"

// URI names an export of a server, as doc/uri.md of the NBD project has it, with the parameters that libnbd added. Its
// zero value is not valid; ParseURI makes valid ones.
type URI struct {
	// Network is "tcp", "unix" or "vsock".
	Network string
	// Host is a name, an IP address without brackets or, of vsock, a context id in decimal. It is empty for "unix".
	Host string
	// Port is that of TCP, or a vsock port. It is 0 for "unix".
	Port uint32
	// Socket is the path of a unix socket; a NUL as the first byte means a name in Linux's abstract namespace.
	Socket string
	// Export is the export's name. The empty one is the server's default export.
	Export string

	// TLS says that the connection must be encrypted: the schemes that begin with nbds.
	TLS bool
	// User is the name that TLS with pre-shared keys would use. X.509 certificates, all that there is here, have no need of it.
	User string
	// Certificates is a folder with the files ca-cert.pem, client-cert.pem and client-key.pem; empty when it was not named.
	Certificates string
	// Hostname is the name that the server's certificate must have, where that is not Host.
	Hostname string
	// NoVerify accepts any certificate of the server: tls-verify-peer=0. Anybody between can then pose as the server.
	NoVerify bool
}

// ParseURI reads an NBD URI: nbd, nbds, nbd+unix, nbds+unix, nbd+vsock or nbds+vsock. Without a host TCP means localhost,
// and vsock the hypervisor. The error says what is wrong and what would be right; a parameter that is not known is
// refused, since leaving it out may mean another server, or no encryption.
func ParseURI(s string) (URI, error) {
	u, err := parseURI(s)
	if err != nil {
		return URI{}, fmt.Errorf("NBD URI %q: %w", s, err)
	}
	return u, nil
}

func parseURI(s string) (URI, error) {
	parsed, err := url.Parse(s)
	if err != nil {
		return URI{}, errors.Unwrap(err) // without the URI, which the caller names
	}
	u := URI{Network: "tcp"}
	scheme, network, isNetwork := strings.Cut(parsed.Scheme, "+")
	switch {
	case scheme != "nbd" && scheme != "nbds", isNetwork && network != "unix" && network != "vsock":
		return URI{}, fmt.Errorf("scheme %q is none of nbd, nbds, nbd+unix, nbds+unix, nbd+vsock, nbds+vsock", parsed.Scheme)
	case isNetwork:
		u.Network = network
	}
	u.TLS = scheme == "nbds"
	switch {
	case parsed.Opaque != "" || !strings.HasPrefix(s[len(parsed.Scheme):], "://"):
		return URI{}, fmt.Errorf("two slashes are missing: %s://…", parsed.Scheme)
	case parsed.Fragment != "" || strings.Contains(s, "#"):
		return URI{}, errors.New("a # in a name is written %23")
	}
	if u.Export = strings.TrimPrefix(parsed.Path, "/"); u.Export != clip(u.Export) {
		return URI{}, fmt.Errorf("the export's name has at most %d bytes of UTF-8 and no NUL", maxString)
	}
	if parsed.User != nil {
		if _, has := parsed.User.Password(); has {
			return URI{}, errors.New("there are no passwords in NBD")
		}
		u.User = parsed.User.Username()
	}
	if err := u.parseParameters(parsed.RawQuery); err != nil {
		return URI{}, err
	}
	return u, u.parseAuthority(parsed)
}

// parseAuthority sets where u's server is.
func (u *URI) parseAuthority(parsed *url.URL) error {
	if u.Network == "unix" {
		switch {
		case parsed.Host != "":
			return fmt.Errorf("a unix socket has no host: %s:///EXPORT?socket=PATH", parsed.Scheme)
		case u.Socket == "" || strings.Contains(u.Socket[1:], "\x00"):
			return fmt.Errorf("no path of the socket: %s:///EXPORT?socket=PATH", parsed.Scheme)
		}
		return nil
	}
	if u.Socket != "" {
		return fmt.Errorf("socket= is for nbd+unix and nbds+unix, not %s", parsed.Scheme)
	}
	u.Host, u.Port = parsed.Hostname(), DefaultPort
	if strings.ContainsFunc(u.Host, notInHost) {
		return fmt.Errorf("%q is not the name of a host", u.Host)
	}
	if strings.Contains(u.Host, ":") && parsed.Host[0] != '[' {
		return fmt.Errorf("an IPv6 address is written in brackets: [%s]", u.Host)
	}
	bits := 16
	if u.Network == "vsock" {
		bits = 32
		if u.Host == "" {
			u.Host = vsockHost
		}
		if id, err := strconv.ParseUint(u.Host, 10, 32); err != nil || u.Host != strconv.FormatUint(id, 10) {
			return fmt.Errorf("%q is not a vsock context id, a number below 2^32", u.Host)
		}
	}
	if u.Host == "" {
		u.Host = "localhost"
	}
	if p := parsed.Port(); p != "" {
		port, err := strconv.ParseUint(p, 10, bits)
		if err != nil || port == 0 {
			return fmt.Errorf("port %s is not from 1 to %d", p, uint64(1)<<bits-1)
		}
		u.Port = uint32(port)
	}
	return nil
}

// notInHost says whether no name of a host has r. Package url lets through what it can escape.
func notInHost(r rune) bool {
	return r <= ' ' || r == 0x7f || r == utf8.RuneError || strings.ContainsRune(`"<>[]\/?#@`, r)
}

// parseParameters reads what follows the question mark. Unlike in a form sent by a browser a plus is a plus.
func (u *URI) parseParameters(query string) error {
	seen := make(map[string]bool)
	for parameter := range strings.SplitSeq(query, "&") {
		if parameter == "" {
			continue
		}
		key, raw, _ := strings.Cut(parameter, "=")
		value, err := url.PathUnescape(raw)
		if err != nil {
			return fmt.Errorf("parameter %s: %w", key, err)
		}
		if seen[key] {
			return fmt.Errorf("parameter %s is there twice", key)
		}
		seen[key] = true
		if strings.HasPrefix(key, "tls-") && !u.TLS {
			return fmt.Errorf("parameter %s needs TLS: begin the URI with nbds", key)
		}
		if err := u.setParameter(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (u *URI) setParameter(key, value string) error {
	switch key {
	case "socket":
		u.Socket = value
	case "tls-certificates":
		u.Certificates = value
	case "tls-hostname":
		u.Hostname = value
	case "tls-username":
		u.User = value
	case "tls-verify-peer":
		if value != "0" && value != "1" {
			return fmt.Errorf("tls-verify-peer is 0 or 1, not %q", value)
		}
		u.NoVerify = value == "0"
	case "tls-type":
		if value != "x509" {
			return fmt.Errorf("tls-type %q: only x509 is supported: %w", value, errors.ErrUnsupported)
		}
	case "tls-psk-file":
		return fmt.Errorf("tls-psk-file: TLS with pre-shared keys is not supported, only certificates: %w", errors.ErrUnsupported)
	default:
		return fmt.Errorf("parameter %q is not known", key)
	}
	return nil
}

// String is the URI. ParseURI reads it back to the same value.
func (u URI) String() string {
	out := url.URL{Scheme: "nbd", Path: "/" + u.Export}
	if u.TLS {
		out.Scheme = "nbds"
	}
	if u.Network != "tcp" {
		out.Scheme += "+" + u.Network
	}
	if u.User != "" {
		out.User = url.User(u.User)
	}
	switch {
	case u.Network == "unix":
	case u.Port != DefaultPort:
		out.Host = net.JoinHostPort(u.Host, strconv.FormatUint(uint64(u.Port), 10))
	case strings.Contains(u.Host, ":"):
		out.Host = "[" + u.Host + "]"
	default:
		out.Host = u.Host
	}
	var query []string
	add := func(key, value string) {
		if value != "" {
			query = append(query, key+"="+strings.ReplaceAll(url.PathEscape(value), "%2F", "/"))
		}
	}
	add("socket", u.Socket)
	add("tls-certificates", u.Certificates)
	add("tls-hostname", u.Hostname)
	if u.NoVerify {
		add("tls-verify-peer", "0")
	}
	for i := range query {
		query[i] = strings.ReplaceAll(query[i], "&", "%26") // PathEscape leaves it
	}
	out.RawQuery = strings.Join(query, "&")
	s := out.String()
	// Without a host package url leaves the slashes out, or adds "//" only in some cases.
	if head := out.Scheme + "://"; !strings.HasPrefix(s, head) {
		s = head + strings.TrimPrefix(s, out.Scheme+":")
	}
	return s
}

// address is where u's server is, as package net has it.
func (u URI) address() string {
	switch {
	case u.Network != "unix":
		return net.JoinHostPort(u.Host, strconv.FormatUint(uint64(u.Port), 10))
	case u.Socket[0] == 0:
		return "@" + u.Socket[1:]
	case u.Socket[0] == '@':
		return "./" + u.Socket // a file, where package net would see an abstract name
	}
	return u.Socket
}

// serverName is what the server's certificate must be for; it may be empty.
func (u URI) serverName() string {
	switch {
	case u.Hostname != "":
		return u.Hostname
	case u.Network == "tcp":
		return u.Host
	}
	return ""
}
