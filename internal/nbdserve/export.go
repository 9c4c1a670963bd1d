package nbdserve

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnbd/dnbd/internal/nbdconf"
	"github.com/dnbd/dnbd/nbd"
)

// Exports returns the exports that a configuration asks for. What goes wrong behind a client's back is logged. Commands
// write to stderr, which may be nil.
func Exports(list []*nbdconf.Export, log *slog.Logger, stderr *os.File) []nbd.Export {
	var all []nbd.Export
	for _, x := range list {
		e := &export{Export: x, log: log.With("export", x.Name), stderr: stderr}
		all = append(all, nbd.Export{
			Name:        x.Name,
			Open:        e.open,
			Shared:      !x.CopyOnWrite && !x.Temporary,
			ReadOnly:    x.ReadOnly,
			Rotational:  x.Rotational,
			NoFUA:       !x.FUA,
			NeedsTLS:    x.ForceTLS,
			IdleTimeout: time.Duration(x.Timeout) * time.Second,
		})
	}
	return all
}

// export is an export of a configuration that is being served.
type export struct {
	*nbdconf.Export
	log     *slog.Logger
	stderr  *os.File
	clients atomic.Int64
	making  sync.Mutex // held while a file is opened that may have to be made
}

// errNoFile is what a client hears when its file cannot be opened.
var errNoFile = fmt.Errorf("%w: what it serves cannot be opened; the server's log says why", nbd.ErrRefused)

// open is the export's nbd.OpenFunc.
func (e *export) open(ctx context.Context, client net.Addr) (d nbd.Device, release func(), err error) {
	var undo []func() // in the order in which it was done
	leave := func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	defer func() {
		if err != nil {
			leave()
		}
	}()

	addr := address(client)
	if err := e.admit(addr); err != nil {
		return nil, nil, err
	}
	clients := e.clients.Add(1)
	undo = append(undo, func() { e.clients.Add(-1) })
	if e.MaxConnections > 0 && clients > int64(e.MaxConnections) {
		return nil, nil, fmt.Errorf("%w: clients at once are limited to %d", nbd.ErrRefused, e.MaxConnections)
	}
	path, err := nbdconf.ExpandName(e.Path, e.VirtStyle, addr)
	if err != nil {
		return nil, nil, err
	}
	if e.PreRun != "" {
		if err := e.run(ctx, e.PreRun, path); err != nil {
			e.log.Warn("prerun", "client", client, "err", err)
			return nil, nil, fmt.Errorf("%w: the command that has to succeed first failed", nbd.ErrRefused)
		}
	}
	if e.PostRun != "" {
		undo = append(undo, func() {
			// The client left, and what it used is to be put away, even when the server ends.
			if err := e.run(context.WithoutCancel(ctx), e.PostRun, path); err != nil {
				e.log.Warn("postrun", "client", client, "err", err)
			}
		})
	}
	// Where the server has its files is not the client's business.
	device, err := e.device(path)
	if err != nil {
		e.log.Warn("open", "client", client, "err", err)
		return nil, nil, errNoFile
	}
	undo = append(undo, func() {
		if err := device.Close(); err != nil {
			e.log.Warn("close", "client", client, "err", err)
		}
	})
	return device, leave, nil
}

// admit returns why a client may not come in, if so. The file of networks is read each time, so that it can be changed.
func (e *export) admit(client netip.Addr) error {
	if e.AuthFile == "" {
		return nil
	}
	list, err := nbdconf.ReadAllowList(e.AuthFile)
	if err != nil {
		e.log.Warn("nobody is let in", "authfile", e.AuthFile, "err", err)
		return fmt.Errorf("%w: the list of networks that may connect cannot be read", nbd.ErrRefused)
	}
	if !nbdconf.Allowed(list, client) {
		return fmt.Errorf("%w: your network is not among those that may connect", nbd.ErrRefused)
	}
	return nil
}

// address is the IP address of a client, or the zero one if it has none.
func address(client net.Addr) netip.Addr {
	if t, ok := client.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// run runs a command of the configuration for the file that is served. It ends the command's shell when ctx ends.
func (e *export) run(ctx context.Context, command, path string) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", nbdconf.ExpandCommand(command, path))
	if e.stderr != nil {
		// Standard output is the client's when inetd starts a server.
		cmd.Stdout, cmd.Stderr = e.stderr, e.stderr
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %q: %w", command, err)
	}
	return nil
}
