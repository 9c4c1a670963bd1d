package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dnbd/dnbd/nbd"
)

// nbdClientArgs are the command line of nbd-client.
type nbdClientArgs struct {
	host       string // or the path of the socket
	port       uint32
	device     string
	name       string
	unix, tls  bool
	timeout    time.Duration
	persist    bool
	foreground bool
	swap       bool
	nbd        nbdOptions
	files      tlsFlags // certificates

	disconnect, check string // a device
	list              bool
	help, version     bool
}

// nbdClientOption is one option, by the rules of getopt_long_only: one dash does for a long one, too.
type nbdClientOption struct {
	short byte
	long  string
	arg   string // the name of its argument, "" when it has none
	does  string
	set   func(c *nbdClientArgs, arg string) error
}

// refused makes an option that is known, and refused for a reason.
func refused(short byte, long, why string) nbdClientOption {
	return nbdClientOption{short, long, "", "refused: " + why, func(*nbdClientArgs, string) error { return errors.New(why) }}
}

// nbdClientOptions are those of nbd-client 3.24.
var nbdClientOptions = []nbdClientOption{
	{'b', "block-size", "BYTES", "the device's block size: 512, 1024, 2048 or 4096 (default: 512, or what the server wants)", func(c *nbdClientArgs, arg string) error {
		n, err := positive(arg, 4096)
		if err == nil && (n < 512 || n&(n-1) != 0) {
			err = errors.New("it is 512, 1024, 2048 or 4096")
		}
		c.nbd.blockSize = int(n)
		return err
	}},
	{'C', "connections", "N", "connections, if the server allows several (default: 1)", func(c *nbdClientArgs, arg string) error {
		n, err := positive(arg, 1024)
		c.nbd.connections = int(n)
		return err
	}},
	{'t', "timeout", "SECONDS", "send a request again that was not answered for so long (default: 30)", func(c *nbdClientArgs, arg string) error {
		n, err := positive(arg, 1<<31-1)
		c.timeout = time.Duration(n) * time.Second
		return err
	}},
	{'N', "name", "NAME", "the export (default: the server's default one)", func(c *nbdClientArgs, arg string) error { c.name = arg; return nil }},
	{'p', "persist", "", "requests wait while the server is gone (default: they fail; it is reconnected to either way)", func(c *nbdClientArgs, _ string) error { c.persist = true; return nil }},
	{'n', "nofork", "", "stay in the foreground", func(c *nbdClientArgs, _ string) error { c.foreground = true; return nil }},
	{'m', "systemd-mark", "", "have systemd leave the process alone at shutdown", func(c *nbdClientArgs, _ string) error { c.nbd.mark = true; return nil }},
	{'s', "swap", "", "the device carries swap: lock memory", func(c *nbdClientArgs, _ string) error { c.swap = true; return nil }},
	{'R', "readonly", "", "a device that cannot be written to", func(c *nbdClientArgs, _ string) error { c.nbd.readOnly = true; return nil }},
	{'B', "size", "BYTES", "the device's size (default: the export's)", func(c *nbdClientArgs, arg string) error {
		n, err := positive(arg, 1<<63-1)
		c.nbd.size = n
		return err
	}},
	{'u', "unix", "", "connect to a unix socket; its path stands in the place of HOST", func(c *nbdClientArgs, _ string) error { c.unix = true; return nil }},
	{'g', "no-optgo", "", "choose the export by EXPORT_NAME", func(c *nbdClientArgs, _ string) error { c.nbd.noGo = true; return nil }},
	{'x', "enable-tls", "", "use TLS", func(c *nbdClientArgs, _ string) error { c.tls = true; return nil }},
	{'F', "certfile", "FILE", "client certificate for TLS", func(c *nbdClientArgs, arg string) error { return c.setTLSFile(&c.files.cert, arg) }},
	{'K', "keyfile", "FILE", "its key", func(c *nbdClientArgs, arg string) error { return c.setTLSFile(&c.files.key, arg) }},
	{'A', "cacertfile", "FILE", "CA certificates for TLS (default: the system's)", func(c *nbdClientArgs, arg string) error { return c.setTLSFile(&c.files.ca, arg) }},
	{'H', "tlshostname", "NAME", "the name in the server's certificate (default: HOST)", func(c *nbdClientArgs, arg string) error { return c.setTLS(&c.files.hostname, arg) }},
	{'d', "disconnect", "DEVICE", "disconnect a device", func(c *nbdClientArgs, arg string) error { c.disconnect = arg; return nil }},
	{'c', "check", "DEVICE", "print the process of a device; exit code 1 when it is not connected", func(c *nbdClientArgs, arg string) error { c.check = arg; return nil }},
	{'l', "list", "", "print the exports of HOST", func(c *nbdClientArgs, _ string) error { c.list = true; return nil }},
	{'V', "version", "", "print the version", func(c *nbdClientArgs, _ string) error { c.version = true; return nil }},
	{'h', "help", "", "print this", func(c *nbdClientArgs, _ string) error { c.help = true; return nil }},
	refused('L', "nonetlink", "devices made by ioctl cannot be reconnected; leave it out"),
	refused('P', "preinit", "a server that does not negotiate is not supported"),
	refused('S', "sdp", "Linux has no Sockets Direct Protocol; leave it out"),
}

// setTLS sets one of the files or names for TLS, which turn that on.
func (c *nbdClientArgs) setTLS(field *string, value string) error {
	if value == "" {
		return errors.New("the value is empty")
	}
	c.tls, *field = true, value
	return nil
}

// setTLSFile is setTLS for a path, which is read by a process in another directory.
func (c *nbdClientArgs) setTLSFile(field *string, path string) error {
	if err := c.setTLS(field, path); err != nil {
		return err
	}
	*field = absolute(path)
	return nil
}

// positive reads a number from 1 to most.
func positive(s string, most int64) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("%q is not a number from 1 to %d", s, most)
	}
	return n, nil
}

// nbdClientUsage is the help text.
func nbdClientUsage() string {
	var b strings.Builder
	b.WriteString(`Usage: nbd-client [options] HOST [PORT] DEVICE
       nbd-client [options] -unix PATH DEVICE
       nbd-client -d DEVICE
       nbd-client -c DEVICE
       nbd-client -l HOST [PORT]

Make an export of an NBD server a block device: /dev/nbdN, or another path, which becomes a link to one.

Options:
`)
	for _, o := range nbdClientOptions {
		arg := o.arg
		if arg != "" {
			arg = " " + arg
		}
		fmt.Fprintf(&b, "  -%c, %-22s %s\n", o.short, "-"+o.long+arg, o.does)
	}
	return b.String()
}

// parseNBDClient reads a command line.
func parseNBDClient(args []string) (*nbdClientArgs, error) {
	c := &nbdClientArgs{port: nbd.DefaultPort}
	var rest []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			rest = append(rest, args...)
			break
		}
		if arg == "-" || !strings.HasPrefix(arg, "-") {
			rest = append(rest, arg)
			continue
		}
		var err error
		if args, err = c.option(arg, args); err != nil {
			return nil, err
		}
	}
	return c, c.positional(rest)
}

// option sets what one argument says, and returns those that are left.
func (c *nbdClientArgs) option(arg string, args []string) ([]string, error) {
	o, value, attached, err := findNBDClientOption(arg)
	if err != nil {
		return nil, err
	}
	switch {
	case o.arg == "" && attached:
		return nil, fmt.Errorf("-%s has no value", o.long)
	case o.arg != "" && !attached && len(args) == 0:
		return nil, fmt.Errorf("-%s needs %s", o.long, o.arg)
	case o.arg != "" && !attached:
		value, args = args[0], args[1:]
	}
	if err := o.set(c, value); err != nil {
		return nil, fmt.Errorf("-%s: %w", o.long, err)
	}
	return args, nil
}

// findNBDClientOption finds the option that an argument names, with the value that is attached to it.
func findNBDClientOption(arg string) (o *nbdClientOption, value string, attached bool, err error) {
	long, value, attached := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	if len(arg) > 2 && long != "" {
		var near []*nbdClientOption
		for i := range nbdClientOptions {
			if o := &nbdClientOptions[i]; o.long == long {
				return o, value, attached, nil
			} else if strings.HasPrefix(o.long, long) {
				near = append(near, o)
			}
		}
		if len(near) == 1 {
			return near[0], value, attached, nil
		}
		if len(near) > 1 {
			return nil, "", false, fmt.Errorf("%s is -%s or -%s; write more of it", arg, near[0].long, near[1].long)
		}
	}
	if !strings.HasPrefix(arg, "--") {
		for i := range nbdClientOptions {
			if o := &nbdClientOptions[i]; o.short == arg[1] && (o.arg != "" || len(arg) == 2) {
				return o, arg[2:], len(arg) > 2, nil
			}
		}
	}
	return nil, "", false, fmt.Errorf("unknown option %q; see -help", arg)
}

// positional reads what are no options: HOST [PORT] DEVICE.
func (c *nbdClientArgs) positional(rest []string) error {
	if c.help || c.version {
		return nil
	}
	want := "HOST [PORT] DEVICE"
	switch {
	case c.disconnect != "" || c.check != "":
		if len(rest) > 0 {
			return fmt.Errorf("%q is one argument too many", rest[0])
		}
		return nil
	case c.list:
		want = "HOST [PORT]"
	case len(rest) == 1:
		return fmt.Errorf("there is only %q: nbdtab is not read, so name the server: %s", rest[0], want)
	case len(rest) > 0:
		c.device, rest = absolute(rest[len(rest)-1]), rest[:len(rest)-1]
		if err := checkDevice(c.device); err != nil {
			return err
		}
	}
	most := 2
	if c.unix {
		most, want = 1, strings.Replace(want, "HOST [PORT]", "PATH", 1)
	}
	if len(rest) == 0 || len(rest) > most {
		return fmt.Errorf("name the server: %s", want)
	}
	c.host = rest[0]
	if len(rest) == 2 {
		port, err := positive(rest[1], 1<<16-1)
		if err != nil {
			return fmt.Errorf("port %w", err)
		}
		c.port = uint32(port)
	}
	return nil
}
