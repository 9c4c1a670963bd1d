package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/listen"
	"github.com/dnbd/dnbd/internal/server"
	"github.com/dnbd/dnbd/internal/source/file"
	"github.com/dnbd/dnbd/internal/wire"
	"github.com/dnbd/dnbd/nbd"
)

// exportFlags say what a server exports over NBD, and to whom.
type exportFlags struct {
	layerFlags
	addresses []string
	at        []listen.Address // what check read of addresses
	writable  bool
	replay    replayFlag
	allow     []string
	maxConns  int
	idle      time.Duration
	tlsMode   string
	tlsCert   string
	tlsKey    string
	tlsCA     string

	operators   string
	operatorsAt string
}

// add gives them to a command.
func (f *exportFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.addresses, "nbd", nil, "export over NBD at `ADDR` too, which is "+listen.Forms+";\n"+
		"may be repeated. systemd takes the sockets that were passed on; stdin serves the client there, and ends with it")
	flags.BoolVar(&f.writable, "writable", false, "let NBD clients write to the files; needs --group none")
	f.replay.add(cmd)
	flags.StringSliceVar(&f.allow, "allow", nil, "serve clients of these networks only, in the group and over NBD, `CIDR,...`; may be repeated (default: all)")
	flags.IntVar(&f.maxConns, "max-connections", 0, "serve `N` NBD connections at once (default: 512)")
	flags.DurationVar(&f.idle, "idle-timeout", 0, "hang up on NBD clients that are silent for this long, such as 1h (default: never)")
	flags.StringVar(&f.tlsMode, "tls", "", "use TLS with NBD clients: `off|on|required` (default: on with --tls-cert, else off)")
	flags.StringVar(&f.tlsCert, "tls-cert", "", "this server's certificate, a PEM `FILE`")
	flags.StringVar(&f.tlsKey, "tls-key", "", "the key of --tls-cert, a PEM `FILE`")
	flags.StringVar(&f.tlsCA, "tls-ca", "", "demand certificates of NBD clients that an authority in this PEM `FILE` signed")
	flags.StringVar(&f.operators, "operators", "", "take commands ('dnbd server') by TLS from who has a certificate in this PEM `FILE`, or one that an\n"+
		"authority in it signed; needs --tls-cert")
	flags.StringVar(&f.operatorsAt, "operators-at", ":"+strconv.Itoa(wire.Port), "where --operators connect, TCP `ADDR:PORT`")
	f.layerFlags.add(cmd)
}

// check looks for flags that contradict each other, or make no sense.
func (f *exportFlags) check(cmd *cobra.Command, group bool) error {
	needNBD := append([]string{"writable", "replay", "max-connections", "idle-timeout", "tls", "tls-cert", "tls-key", "tls-ca"}, layerNames...)
	if f.operators != "" {
		needNBD = slices.DeleteFunc(needNBD, func(flag string) bool { return flag == "tls-cert" || flag == "tls-key" })
	}
	for _, flag := range needNBD {
		if len(f.addresses) == 0 && cmd.Flags().Changed(flag) {
			return usagef("--%s is for NBD clients: say with --nbd where they connect", flag)
		}
	}
	for _, s := range f.addresses {
		a, err := listen.Parse(s)
		if err != nil {
			return usagef("--nbd: %w", err)
		}
		f.at = append(f.at, a)
	}
	switch {
	case f.stdin() && (group || len(f.at) > 1):
		return usagef("--nbd stdin: the server ends with the client that is there, so it needs --group none and has no other --nbd")
	case !group && len(f.addresses) == 0:
		return usagef("--group none leaves nobody to serve: say with --nbd where NBD clients connect")
	case group && f.writable:
		return usagef("--writable needs --group none: what a group shares does not change")
	case group && f.cow != "" && f.cow != cowPerConnection:
		return usagef("--cow=%s needs --group none: an image that is offered anew would not fit what was kept", f.cow)
	case f.operators == "" && cmd.Flags().Changed("operators-at"):
		return usagef("--operators-at: say with --operators who may command")
	case f.operators != "" && !group:
		return usagef("--operators and --group none contradict each other: commands are for servers of a group")
	case f.operators != "" && f.tlsCert == "":
		return usagef("--operators needs --tls-cert and --tls-key")
	case f.replay > 0 && !f.writable:
		return usagef("--replay is for what is written to another NBD server: it needs --writable")
	case f.writable && f.cow != "":
		return usagef("--writable and --cow contradict each other: are the files to be written to, or not?")
	case cmd.Flags().Changed("max-connections") && f.maxConns < 1:
		return usagef("--max-connections %d: it is a number from 1", f.maxConns)
	case f.idle < 0:
		return usagef("--idle-timeout %v is negative", f.idle)
	case (f.tlsCert == "") != (f.tlsKey == ""):
		return usagef("--tls-cert and --tls-key go together")
	}
	if err := f.replay.check(cmd); err != nil {
		return err
	}
	switch f.tlsMode {
	case "":
		if f.tlsCert == "" && f.tlsCA != "" {
			return usagef("--tls-ca needs --tls-cert and --tls-key")
		}
	case "off":
		if f.tlsCert != "" || f.tlsCA != "" {
			return usagef("--tls off contradicts the other TLS flags")
		}
	case "on", "required":
		if f.tlsCert == "" {
			return usagef("--tls %s needs --tls-cert and --tls-key", f.tlsMode)
		}
	default:
		return usagef("--tls %s: it is off, on or required", f.tlsMode)
	}
	return f.layerFlags.check()
}

// stdin says whether the client is on standard input.
func (f *exportFlags) stdin() bool { return slices.ContainsFunc(f.at, listen.Address.Stdin) }

// started says whether it is a client, or a service manager, that starts this server: standard output may be meant for something else
// then.
func (f *exportFlags) started() bool {
	return slices.ContainsFunc(f.at, func(a listen.Address) bool { return a.Stdin() || a.Inherited() })
}

// open opens the listeners, or takes the client that is there. They are the caller's to close.
func (f *exportFlags) open(ctx context.Context, log *slog.Logger) (server.NBD, error) {
	n := server.NBD{ServerConfig: nbd.ServerConfig{Log: log, MaxConns: f.maxConns, IdleTimeout: f.idle}}
	networks, err := f.networks()
	if err != nil {
		return n, err
	}
	if f.tlsCert != "" {
		var err error
		if n.TLS, err = listen.TLS(f.tlsCert, f.tlsKey, f.tlsCA); err != nil {
			return n, fmt.Errorf("--tls-cert: %w", err)
		}
		n.TLSMode = nbd.TLSOn
		if f.tlsMode == "required" {
			n.TLSMode = nbd.TLSRequired
		}
	}
	for _, a := range f.at {
		if a.Stdin() {
			var err error
			if n.Client, err = takeClient(networks); err != nil {
				return n, err
			}
			continue
		}
		ls, err := a.Listen(ctx)
		if err != nil {
			n.Close()
			return server.NBD{}, fmt.Errorf("--nbd: %w", err)
		}
		for _, l := range ls {
			n.Listeners = append(n.Listeners, listen.Allow(l, networks, log))
			// Clients of the group know the server's address, so they can be told the port of a listener at every address.
			if tcp, ok := l.Addr().(*net.TCPAddr); ok && tcp.IP.IsUnspecified() && n.Port == 0 {
				n.Port = uint16(tcp.Port)
			}
		}
	}
	n.Wrap = func(x nbd.Export) (nbd.Export, func() error, error) {
		// The image belongs to the server.
		return f.layerFlags.export(ctx, x, block.Borrow(x.Device.(*image.Image)), log)
	}
	return n, nil
}

// networks are those of the clients that are served; none for all.
func (f *exportFlags) networks() ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, s := range f.allow {
		p, err := listen.ParsePrefix(s)
		if err != nil {
			return nil, usagef("--allow: %w", err)
		}
		networks = append(networks, p)
	}
	return networks, nil
}

// takeClient takes the client on standard input, if it may connect.
func takeClient(networks []netip.Prefix) (net.Conn, error) {
	conn, err := listen.Stdin()
	if err != nil {
		return nil, fmt.Errorf("--nbd stdin: %w; it is for clients that start their server, as nbdsh does in nbd.connect_command()", err)
	}
	if client := conn.RemoteAddr(); !listen.Allowed(networks, client) {
		return nil, errors.Join(fmt.Errorf("--nbd stdin: client %v turned away: its network is not allowed", client), conn.Close())
	}
	return conn, nil
}

// plain is what is exported of files as they are, without a group.
type plain struct {
	exports []nbd.Export
	paths   []string
	cow     bool // what clients write goes elsewhere
	close   []func() error
}

// openPlain opens the files, each as an export with its layers.
func (f *exportFlags) openPlain(ctx context.Context, sources []source, log *slog.Logger) (*plain, error) {
	p := &plain{cow: f.cow != ""}
	for _, s := range sources {
		x := nbd.Export{Name: s.name}
		if x.Name == "" {
			x.Name = exportName(s.path)
		}
		for _, other := range p.exports {
			if other.Name == x.Name {
				return p, fmt.Errorf("two exports are called %s; give one of them another name, as in other=%s", x.Name, s.path)
			}
		}
		d, err := f.openSource(ctx, s, log)
		if err != nil {
			return p, err
		}
		x, release, err := f.layerFlags.export(ctx, x, d, log)
		if err != nil {
			return p, err
		}
		p.exports, p.paths, p.close = append(p.exports, x), append(p.paths, s.path), append(p.close, release)
	}
	return p, nil
}

// exportName is what the export of a file, or of what an NBD URI names, is called.
func exportName(path string) string {
	if u, err := nbd.ParseURI(path); isNBD(path) && err == nil {
		return u.Export
	}
	return image.NameOf(path)
}

// openSource opens what is to be exported.
func (f *exportFlags) openSource(ctx context.Context, s source, log *slog.Logger) (block.Device, error) {
	if isNBD(s.path) {
		d, err := openRemote(ctx, s.path, nil, f.replay, log)
		if err != nil {
			return nil, err
		}
		if !f.writable {
			return block.ReadOnly(d), nil
		}
		if block.Has(d)&block.CanWrite == 0 {
			return nil, errors.Join(fmt.Errorf("--writable: %s is exported read-only", s.path), d.Close())
		}
		return d, nil
	}
	if f.writable {
		d, err := file.OpenWritable(s.path, true)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	d, err := file.Open(s.path)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Close closes what is exported.
func (p *plain) Close() error {
	var errs []error
	for _, release := range p.close {
		errs = append(errs, release())
	}
	p.close = nil
	return errors.Join(errs...)
}

// status says for each export what it is.
func (p *plain) status() []control.Export {
	list := []control.Export{}
	for i, x := range p.exports {
		e := control.Export{Name: x.Name, File: p.paths[i], Access: control.ReadOnly}
		if _, writable := x.Device.(block.Writer); p.cow {
			e.Access = control.CopyOnWrite
		} else if writable {
			e.Access = control.Writable
		}
		list = append(list, e)
	}
	return list
}
