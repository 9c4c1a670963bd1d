// Package listen opens the stream sockets that a server is told to listen at: TCP, unix, vsock, and those that a service manager has
// opened already. It also takes the one client that a server may be started with.
package listen

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Forms is every way to write an Address, for usage texts and errors.
const Forms = "HOST[:PORT], [HOST]:PORT, unix:PATH, vsock:PORT, systemd or stdin"

// Port is the TCP port of NBD (IANA), which an Address that names none has.
const Port = 10809

// Address is where to listen.
type Address struct {
	kind kind
	host string // a name, an IP address with its zone, or empty for every address of this machine
	port uint32 // of TCP or vsock; 0 for any that is free
	path string // of a unix socket
}

type kind uint8

const (
	tcp kind = iota
	unixSocket
	vsockPort
	inherited
	standardInput
)

// Parse reads an Address in one of Forms.
func Parse(s string) (Address, error) {
	a, err := parse(s)
	if err != nil {
		return Address{}, fmt.Errorf("address %.200q: %w; it is %s", s, err, Forms)
	}
	return a, nil
}

func parse(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return Address{}, errors.New("the path is missing")
		}
		return Address{kind: unixSocket, path: path}, nil
	}
	if port, ok := strings.CutPrefix(s, "vsock:"); ok {
		n, err := strconv.ParseUint(port, 10, 32)
		if err != nil {
			return Address{}, fmt.Errorf("port %q is no number from 0 to 4294967295", port)
		}
		return Address{kind: vsockPort, port: uint32(n)}, nil
	}
	switch s {
	case "":
		return Address{}, errors.New("it is empty")
	case "systemd":
		return Address{kind: inherited}, nil
	case "stdin":
		return Address{kind: standardInput}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		// No port, then: a name, an IPv4 address, or an IPv6 address with or without brackets.
		host, port = s, strconv.Itoa(Port)
		if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
			host = s[1 : len(s)-1]
		}
		if strings.ContainsAny(host, "[]/") || strings.Contains(host, ":") && net.ParseIP(strings.SplitN(host, "%", 2)[0]) == nil {
			return Address{}, errors.New("it is no host and port")
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Address{}, fmt.Errorf("port %q is no number from 0 to 65535", port)
	}
	return Address{kind: tcp, host: host, port: uint32(n)}, nil
}

// String returns the address as Parse reads it.
func (a Address) String() string {
	switch a.kind {
	case unixSocket:
		return "unix:" + a.path
	case vsockPort:
		return fmt.Sprintf("vsock:%d", a.port)
	case inherited:
		return "systemd"
	case standardInput:
		return "stdin"
	}
	return net.JoinHostPort(a.host, strconv.FormatUint(uint64(a.port), 10))
}

// Stdin says whether the address is no place to listen at: the client is on standard input already, and Stdin takes it.
func (a Address) Stdin() bool { return a.kind == standardInput }

// Inherited says whether the sockets are those that a service manager passes on.
func (a Address) Inherited() bool { return a.kind == inherited }
