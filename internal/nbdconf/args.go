package nbdconf

import (
	"fmt"
	"math"
	"strings"
)

// Command is what a command line of nbd-server asks for.
type Command struct {
	// ConfigFile is the configuration file, DefaultFile unless told.
	ConfigFile string
	// Export is the export of PORT and FILE, or nil when the command line names none. Its Name is "", and its Allow is nil
	// until Load.
	Export *Export
	// Listen is the address of IP@PORT, empty for all. Port is 0 for stdin. Both are set with Export
	// only.
	Listen Addresses
	Port   int
	// PIDFile is where to write the process's id, "" for nowhere.
	PIDFile string
	// Section asks to print the export as a section of this name (see Export.Section) and to exit; "" does not.
	Section string
	// Foreground asks not to become a daemon. Debug, which implies it, asks to serve the first client in this very process.
	Foreground, Debug bool
	// Version and Help ask to print one and exit. Nothing else is set or checked then.
	Version, Help bool
}

// ParseArgs reads the arguments of nbd-server, without the program's name. It opens no file. Options and the rest may be in
// any order, long options may be cut short, and an option given twice has its last value.
func ParseArgs(args []string) (*Command, error) {
	c := &Command{ConfigFile: DefaultFile}
	x := NewExport("")
	x.AuthFile = DefaultAllowFile
	forExport, rest, err := parseOptions(c, x, args)
	switch {
	case err != nil:
		return nil, err
	case c.Help || c.Version:
		return c, nil
	case len(rest) == 0 && forExport != "":
		return nil, fmt.Errorf("%s is for the FILE of the command line, and there is none", forExport)
	case len(rest) == 0:
		return c, nil
	}
	if err := c.positional(x, rest); err != nil {
		return nil, err
	}
	if bad := x.conflicts(); len(bad) > 0 {
		return nil, fmt.Errorf("%s: %w", bad[0].key, bad[0].err)
	}
	if c.Section != "" {
		if _, err := x.Section(c.Section); err != nil {
			return nil, fmt.Errorf("-o: %w", err)
		}
	}
	c.Export = x
	return c, nil
}

// positional reads PORT, FILE and SIZE.
func (c *Command) positional(x *Export, rest []string) error {
	switch len(rest) {
	case 1:
		return fmt.Errorf("%q alone: a port needs a FILE to serve at it, and a file a PORT before it", clip(rest[0]))
	case 2, 3:
	default:
		return fmt.Errorf("%q is one too many: there are PORT, FILE and SIZE", clip(rest[3]))
	}
	if err := c.address(rest[0]); err != nil {
		return err
	}
	if err := setPath(&x.Path, rest[1]); err != nil {
		return fmt.Errorf("FILE: %w", err)
	}
	if len(rest) == 3 {
		size, err := parseSize(rest[2])
		if err != nil {
			return err
		}
		x.FileSize = size
	}
	return nil
}

// address reads PORT, IP@PORT or IP:PORT.
func (c *Command) address(s string) error {
	text := s
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		at = strings.LastIndexByte(s, ':')
		if at != strings.IndexByte(s, ':') {
			return fmt.Errorf("%q: write an IPv6 address as IP@PORT", clip(s))
		}
	}
	if at >= 0 {
		host, err := parseHost(s[:at])
		if err != nil {
			return fmt.Errorf("%q: %w", clip(s), err)
		}
		c.Listen = Addresses{host}
		text = s[at+1:]
	}
	if err := (*port)(&c.Port).UnmarshalText([]byte(text)); err != nil {
		return fmt.Errorf("%q: %w", clip(s), err)
	}
	return nil
}

// parseSize reads a size in bytes, or with K, k, M or m behind it in KiB or MiB. nbd-server 3.24 drops any other letter, so
// that 1G is one byte; here it is an error.
func parseSize(s string) (int64, error) {
	digits, unit := s, int64(1)
	if number, ok := strings.CutSuffix(strings.ToUpper(s), "K"); ok {
		digits, unit = number, 1<<10
	} else if number, ok := strings.CutSuffix(strings.ToUpper(s), "M"); ok {
		digits, unit = number, 1<<20
	}
	n, err := parseNumber(digits, 0, math.MaxInt64/unit)
	if err != nil {
		return 0, fmt.Errorf("size %q: write a number of bytes, KiB or MiB, like 65536, 64K or 10M: %w", clip(s), err)
	}
	return n * unit, nil
}
