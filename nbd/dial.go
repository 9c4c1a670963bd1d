package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// defaultDialTimeout is how long connecting and negotiating may take.
const defaultDialTimeout = 30 * time.Second

// DialConfig is how a Client is to work. Its zero value is ready.
type DialConfig struct {
	// TLS is the configuration for encrypted connections, in place of the URI's tls- parameters. With it a connection is
	// encrypted whatever the URI's scheme; there is no way to encrypt only where the server can. Dial fills in a ServerName
	// that is missing, from the URI. Where TLS is nil and the URI asks for it, the certificates are those of the URI's folder
	// or else the system's.
	TLS *tls.Config
	// Connections is how many connections are opened where the server allows several (MULTI_CONN); requests are spread over
	// them. Those that the server turns away are done without. 0 means 1.
	Connections int
	// Reconnect is how long to try to get back to the server after a connection broke. 0 means not at all: the client then
	// fails for good. See Client for what happens to requests meanwhile.
	Reconnect time.Duration
	// Replay is for a client that is the only writer of the export: how many bytes of writes that were answered and not flushed
	// to keep in memory, at least 1 MiB. After a broken connection they are written again, before anything else is asked, so
	// that nothing is lost with a server that crashes. When half of it is used the client flushes by itself. Each write, trim and
	// zeroing counts as 4 KiB at least. Writes that touch the same bytes wait for one another. Another writer's bytes would
	// be written over. 0 means none. It needs Reconnect, and a server that can flush.
	Replay int64
	// Timeout is how long connecting and negotiating may take, each time. 0 means 30 s. A context may end it earlier.
	Timeout time.Duration
	// Contexts are the metadata contexts to ask the server for, at most 256. nil means base:allocation; without it there are
	// no Extents. One that the server does not have is left out.
	Contexts []string

	// What not to ask the server for, for servers that cannot bear it. Without structured replies there are no extended
	// headers and no contexts either. Without block sizes a server may refuse requests that do not fit its own.
	NoStructuredReplies, NoExtendedHeaders, NoBlockSizes bool
	// NoGo chooses the export by EXPORT_NAME, for servers that lose step when they are asked for GO. Those that merely do not
	// know GO need no such care.
	NoGo bool

	// Dial opens sockets in place of package net: network is "tcp", "unix" or "vsock", address as for net.Dial. The
	// connection's deadlines must work.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Log gets a line when a connection is lost, and when it is back. nil means none.
	Log *slog.Logger
}

// contexts are the metadata contexts to ask for.
func (c *DialConfig) contexts() []string {
	if c.Contexts == nil {
		return []string{ContextAllocation}
	}
	return c.Contexts
}

// check says what is wrong with c, and fills in what it leaves open.
func (c *DialConfig) check() error {
	if len(c.Contexts) > maxContexts {
		return fmt.Errorf("%d metadata contexts, at most %d can be asked for", len(c.Contexts), maxContexts)
	}
	for _, name := range c.Contexts {
		if name == "" || name != clip(name) {
			return fmt.Errorf("metadata context %q: a name has 1 to %d bytes of UTF-8 and no NUL", clip(name), maxString)
		}
	}
	if c.Connections < 0 || c.Reconnect < 0 || c.Timeout < 0 {
		return errors.New("negative numbers in the configuration")
	}
	if c.Replay != 0 && (c.Replay < MinReplay || c.Reconnect == 0) {
		return fmt.Errorf("%d bytes for replays: it takes %d at least, and Reconnect", c.Replay, MinReplay)
	}
	if c.Connections == 0 {
		c.Connections = 1
	}
	if c.Timeout == 0 {
		c.Timeout = defaultDialTimeout
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Dial connects to the export that uri names, see ParseURI. The error says what could not be done; it wraps
// fs.ErrNotExist when the server has no such export, and fs.ErrPermission when it wants TLS. ctx is for connecting only.
func Dial(ctx context.Context, uri string, config DialConfig) (*Client, error) {
	u, d, err := newDialer(uri, config)
	if err != nil {
		return nil, err
	}
	return newClient(ctx, uri, d.config, func(ctx context.Context) (*handshake, error) {
		return d.shake(ctx, func(ctx context.Context, h *handshake) error { return h.choose(ctx, u.Export, d.secure) })
	})
}

// List asks the server that uri names for its exports. Where the server tells more than names, the rest of the ExportInfo
// is filled in; otherwise MaxPayload is 0. The URI's own export does not matter.
func List(ctx context.Context, uri string, config DialConfig) (exports []ExportInfo, err error) {
	_, d, err := newDialer(uri, config)
	if err != nil {
		return nil, err
	}
	h, err := d.shake(ctx, func(ctx context.Context, h *handshake) error {
		if err := h.open(ctx, d.secure); err != nil {
			return err
		}
		exports, err = h.list()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list exports of %s: %w", uri, err)
	}
	_ = h.conn.Close()
	return exports, nil
}

// NewClient negotiates with the server at the other end of conn, which the client owns from then on, also on error. It
// chooses the export of this name. TLS is used when config has it; a client made this way cannot reconnect and has one
// connection. conn's deadlines must work.
func NewClient(ctx context.Context, conn net.Conn, export string, config DialConfig) (*Client, error) {
	name := fmt.Sprintf("NBD export %q", clip(export))
	err := config.check()
	switch {
	case err != nil:
	case config.Reconnect != 0:
		err = errors.New("a single connection cannot be opened again: Reconnect must be 0")
	case export != clip(export):
		err = fmt.Errorf("the export's name has at most %d bytes of UTF-8 and no NUL", maxString)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	config.Connections = 1
	d := &dialer{config: config, secure: config.TLS, dial: func(context.Context) (net.Conn, error) { return conn, nil }}
	return newClient(ctx, name, config, func(ctx context.Context) (*handshake, error) {
		return d.shake(ctx, func(ctx context.Context, h *handshake) error { return h.choose(ctx, export, d.secure) })
	})
}

// dialer opens connections to one server.
type dialer struct {
	config DialConfig
	secure *tls.Config // nil: no TLS
	dial   func(context.Context) (net.Conn, error)
}

func newDialer(uri string, config DialConfig) (URI, *dialer, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return URI{}, nil, err
	}
	if err := config.check(); err != nil {
		return URI{}, nil, fmt.Errorf("%s: %w", uri, err)
	}
	d := &dialer{config: config, secure: config.TLS}
	if d.secure == nil && u.TLS {
		if d.secure, err = u.tlsConfig(); err != nil {
			return URI{}, nil, fmt.Errorf("%s: %w", uri, err)
		}
	} else if d.secure != nil && d.secure.ServerName == "" && !d.secure.InsecureSkipVerify {
		d.secure = d.secure.Clone()
		d.secure.ServerName = u.serverName()
	}
	d.dial = func(ctx context.Context) (net.Conn, error) {
		switch {
		case config.Dial != nil:
			return config.Dial(ctx, u.Network, u.address())
		case u.Network == "vsock":
			return dialVsock(ctx, u.Host, u.Port)
		}
		return socketDialer().DialContext(ctx, u.Network, u.address())
	}
	return u, d, nil
}

// shake connects and runs the negotiation talk, all within the time that there is.
func (d *dialer) shake(ctx context.Context, talk func(context.Context, *handshake) error) (*handshake, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.config.Timeout, fmt.Errorf("no connection within %v", d.config.Timeout))
	defer cancel()
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	h := &handshake{conn: conn, socket: conn, config: &d.config}
	err = talk(ctx, h)
	if !stop() { // ctx ended, which is the reason of what went wrong
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, explainTLS(err, h.agreed.tls != nil)
	}
	return h, nil
}
