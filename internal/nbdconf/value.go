package nbdconf

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// set reads the value of k, as it is in a file, into its field.
func (k *Key) set(c *Config, x *Export, value string) error {
	switch field := k.field(c, x).(type) {
	case *bool:
		return setBool(field, value)
	case *int:
		n, err := parseNumber(strings.TrimRight(value, blanks), k.Min, math.MaxInt32)
		if err == nil {
			*field = int(n)
		}
		return err
	case *int64:
		n, err := parseNumber(strings.TrimRight(value, blanks), k.Min, math.MaxInt64)
		if err == nil {
			*field = n
		}
		return err
	case *string:
		return k.setString(field, value)
	case encoding.TextUnmarshaler:
		text, err := unescape(value)
		if err != nil {
			return err
		}
		return field.UnmarshalText([]byte(text))
	default:
		panic(fmt.Sprintf("nbdconf: key %s has a field of type %T", k.Name, field))
	}
}

// text returns the value of k as a file has it.
func (k *Key) text(c *Config, x *Export) (string, error) {
	switch field := k.field(c, x).(type) {
	case *bool:
		return strconv.FormatBool(*field), nil
	case *int:
		return strconv.Itoa(*field), nil
	case *int64:
		return strconv.FormatInt(*field, 10), nil
	case *string:
		if !expressible(*field) {
			return "", fmt.Errorf("%s: %q cannot be written: it has NUL, a form feed in front, or is not UTF-8", k.Name, clip(*field))
		}
		return escape(*field), nil
	case encoding.TextMarshaler:
		text, err := field.MarshalText()
		return escape(string(text)), err
	default:
		panic(fmt.Sprintf("nbdconf: key %s has a field of type %T", k.Name, field))
	}
}

// setBool reads what GLib takes for a boolean, which is more than nbd-server(5) says: 1 and 0 too.
func setBool(field *bool, value string) error {
	switch strings.TrimRight(value, blanks) {
	case "true", "1":
		*field = true
	case "false", "0":
		*field = false
	default:
		return fmt.Errorf("%q is not a boolean; write true or false", clip(value))
	}
	return nil
}

// setString reads a string or a path.
func (k *Key) setString(field *string, value string) error {
	text, err := unescape(value)
	switch {
	case err != nil:
		return err
	case text == "":
		return errors.New("is empty; leave the line out for the default")
	case k.Type != Path:
	case strings.ContainsRune(text, 0):
		return errNUL
	case !absolute(text):
		return fmt.Errorf("%q is a relative path, and nbd-server works in /; write it from the root", clip(text))
	}
	*field = text
	return nil
}

// absolute says whether a path is absolute, as nbd-server has it or as this system does.
func absolute(path string) bool {
	return strings.HasPrefix(path, "/") || filepath.IsAbs(path)
}

// parseNumber reads a decimal number within bounds.
func parseNumber(s string, least, most int64) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%s is not within %d and %d", clip(s), least, most)
	case err != nil:
		return 0, fmt.Errorf("%q is not a number; write it in decimal, without a unit", clip(s))
	case n < least || n > most:
		return 0, fmt.Errorf("%d is not within %d and %d", n, least, most)
	}
	return n, nil
}

// port is the value of the key port: a number, or the name of a service.
type port int

// MarshalText writes the number.
func (p port) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(p), 10), nil }

// UnmarshalText reads a number from 0 to 65535, or a name that the system knows.
func (p *port) UnmarshalText(text []byte) error {
	s := strings.TrimRight(string(text), blanks)
	if s != "" && (s[0] < '0' || s[0] > '9') && s[0] != '-' && s[0] != '+' {
		n, err := net.LookupPort("tcp", s)
		if err != nil {
			return fmt.Errorf("%q is neither a port nor the name of a service", clip(s))
		}
		*p = port(n)
		return nil
	}
	n, err := parseNumber(s, 0, math.MaxUint16)
	if err != nil {
		return fmt.Errorf("not a port: %w", err)
	}
	*p = port(n)
	return nil
}

// Addresses is the value of the key listenaddr: IP addresses and names of hosts. It has no empty string.
type Addresses []string

// MarshalText writes the list with commas.
func (a Addresses) MarshalText() ([]byte, error) { return []byte(strings.Join(a, ", ")), nil }

// UnmarshalText reads a list with commas.
func (a *Addresses) UnmarshalText(text []byte) error {
	var list Addresses
	for field := range strings.SplitSeq(string(text), ",") {
		host, err := parseHost(strings.TrimSpace(field))
		if err != nil {
			return err
		}
		list = append(list, host)
	}
	*a = list
	return nil
}

// parseHost checks an IP address or the name of a host. Names are not looked up.
func parseHost(s string) (string, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.String(), nil
	}
	digits := true // an address with a mistake in it is not a name
	for _, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_' || r == '-'
		digit := r >= '0' && r <= '9' || r == '.'
		if !letter && !digit {
			return "", fmt.Errorf("%q is not an IP address; write them without brackets and port, with commas between", clip(s))
		}
		digits = digits && digit
	}
	if digits {
		return "", fmt.Errorf("%q is not an IP address", clip(s))
	}
	return s, nil
}
