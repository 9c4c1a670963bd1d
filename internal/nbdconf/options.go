package nbdconf

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// option is one option of the command line, by the rules of getopt_long.
type option struct {
	short byte
	long  string
	arg   string // the name of its argument, "" when it has none
	does  string
	file  bool // it is about the FILE of the command line, and says nothing without one
	set   func(c *Command, x *Export, arg string) error
}

// options are those of nbd-server 3.24, with -n of 3.25 and -h.
var options = []option{
	{
		'r', "read-only", "", "writes fail", true,
		func(_ *Command, x *Export, _ string) error { x.ReadOnly = true; return nil },
	},
	{
		'm', "multi-file", "", "serve FILE.0, FILE.1, … as one", true,
		func(_ *Command, x *Export, _ string) error { x.MultiFile = true; return nil },
	},
	{
		'c', "copy-on-write", "", "each client's writes are its own, and then lost", true,
		func(_ *Command, x *Export, _ string) error { x.CopyOnWrite = true; return nil },
	},
	{
		'C', "config-file", "FILE", "configuration file, instead of " + DefaultFile, false,
		func(c *Command, _ *Export, arg string) error { return setArg(&c.ConfigFile, arg) },
	},
	{
		'l', "authorize-file", "FILE", "networks that may connect, instead of " + DefaultAllowFile, true,
		func(_ *Command, x *Export, arg string) error { return setPath(&x.AuthFile, arg) },
	},
	{
		'p', "pid-file", "FILE", "where to write the process id", false,
		func(c *Command, _ *Export, arg string) error { return setArg(&c.PIDFile, arg) },
	},
	{
		'o', "output-config", "SECTION", "print a section of a configuration for this command line, and exit", true,
		func(c *Command, _ *Export, arg string) error { return setArg(&c.Section, arg) },
	},
	{
		'M', "max-connections", "N", "clients at once; 0 is any number", true,
		func(_ *Command, x *Export, arg string) error {
			n, err := parseNumber(arg, 0, math.MaxInt32)
			x.MaxConnections = int(n)
			return err
		},
	},
	{
		'n', "nodaemon", "", "stay in the foreground", false,
		func(c *Command, _ *Export, _ string) error { c.Foreground = true; return nil },
	},
	{
		'd', "dont-fork", "", "stay in the foreground, and serve one client in this process", false,
		func(c *Command, _ *Export, _ string) error { c.Foreground, c.Debug = true, true; return nil },
	},
	{
		'V', "version", "", "print the version, and exit", false,
		func(c *Command, _ *Export, _ string) error { c.Version = true; return nil },
	},
	{
		'h', "help", "", "print this, and exit", false,
		func(c *Command, _ *Export, _ string) error { c.Help = true; return nil },
	},
}

func setArg(field *string, arg string) error {
	if arg == "" {
		return errors.New("is empty")
	}
	*field = arg
	return nil
}

// setPath sets a path that is read after the server went to /.
func setPath(field *string, arg string) error {
	if !absolute(arg) {
		return fmt.Errorf("%q is a relative path, and nbd-server works in /; write it from the root", clip(arg))
	}
	*field = arg
	return nil
}

// Usage returns the help text of nbd-server for a program of this name.
func Usage(program string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `Usage: %s [IP@]PORT FILE [SIZE] [options]
       %[1]s [options]

Serve FILE, and the exports of a configuration file, as network block devices.

  PORT    the port to listen at; 0 serves one client on stdin, as from inetd
  IP      the address or host to listen at; all of this machine unless set; IP:PORT works too, but not for IPv6
  FILE    a file or block device, from the root; in it %%s becomes the client's address, and %%%% a percent sign
  SIZE    how much of it, in bytes, or with K or M in KiB or MiB

Options:
`, program)
	for _, o := range options {
		arg := o.arg
		if arg != "" {
			arg = " " + arg
		}
		fmt.Fprintf(&b, "  -%c, %-28s %s\n", o.short, "--"+o.long+arg, o.does)
	}
	return b.String()
}

// parseOptions reads the options, and returns the other arguments, and one option that says something about the export.
func parseOptions(c *Command, x *Export, args []string) (forExport string, rest []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return forExport, append(rest, args...), nil
		case arg == "-" || !strings.HasPrefix(arg, "-"):
			rest = append(rest, arg)
			continue
		}
		found, values, left, err := findOptions(arg, args)
		if err != nil {
			return "", nil, err
		}
		args = left
		for i, o := range found {
			if err := o.set(c, x, values[i]); err != nil {
				return "", nil, fmt.Errorf("-%c: %w", o.short, err)
			}
			if o.file {
				forExport = "-" + string(o.short)
			}
		}
	}
	return forExport, rest, nil
}

// findOptions returns the options that an argument is made of, their values, and the arguments left behind it.
func findOptions(arg string, args []string) (found []*option, values, left []string, err error) {
	if strings.HasPrefix(arg, "--") {
		o, value, left, err := findLong(arg, args)
		return []*option{o}, []string{value}, left, err
	}
	for i := 1; i < len(arg); i++ {
		n := slices.IndexFunc(options, func(o option) bool { return o.short == arg[i] })
		if n < 0 {
			return nil, nil, nil, fmt.Errorf("unknown option %q; see -h", clip("-"+arg[i:]))
		}
		o, value := &options[n], ""
		if o.arg != "" {
			// The rest of the argument, or else the next one.
			switch value = arg[i+1:]; {
			case value != "":
			case len(args) == 0:
				return nil, nil, nil, fmt.Errorf("-%c needs %s", o.short, o.arg)
			default:
				value, args = args[0], args[1:]
			}
			i = len(arg)
		}
		found, values = append(found, o), append(values, value)
	}
	return found, values, args, nil
}

// findLong is findOptions for a long option.
func findLong(arg string, args []string) (o *option, value string, left []string, err error) {
	name, value, with := strings.Cut(arg[2:], "=")
	for i := range options {
		if options[i].long == name {
			o = &options[i]
			break
		}
		if strings.HasPrefix(options[i].long, name) {
			if o != nil {
				return nil, "", nil, fmt.Errorf("--%s is --%s or --%s; write more of it", clip(name), o.long, options[i].long)
			}
			o = &options[i]
		}
	}
	switch {
	case o == nil:
		return nil, "", nil, fmt.Errorf("unknown option --%s; see -h", clip(name))
	case o.arg == "" && with:
		return nil, "", nil, fmt.Errorf("--%s has no value", o.long)
	case o.arg == "" || with:
		return o, value, args, nil
	case len(args) == 0:
		return nil, "", nil, fmt.Errorf("--%s needs %s", o.long, o.arg)
	}
	return o, args[0], args[1:], nil
}
