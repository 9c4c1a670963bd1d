package nbd

import (
	"context"
	"fmt"
	"net"
)

// Flags are the transmission flags that x's clients are offered, as the protocol numbers them, where replies are simple.
func (x Export) Flags() uint16 {
	can := x.capabilities()
	flags := can.flags()
	if x.Rotational {
		flags |= exportRotational
	}
	if x.NoFUA {
		flags &^= exportFUA
	}
	return flags
}

// ServeTransmission serves x to the client of conn, with whom all is agreed on already: the connection is in the transmission
// phase, replies are simple, and the client knows x's size and Flags. Linux's NBD driver is such a client. x needs no name,
// has a Device, and is not one of the server's exports. Otherwise it is as ServeConn.
func (s *Server) ServeTransmission(ctx context.Context, conn net.Conn, x Export) error {
	defer conn.Close()
	if err := x.complete(); err != nil {
		return err
	}
	s.count.accepted.Add(1)
	s.count.connections.Add(1)
	defer s.count.connections.Add(-1)
	t := newTransmission(context.WithoutCancel(ctx), session{export: x, can: x.capabilities()}, conn, nil, s)
	defer context.AfterFunc(ctx, t.stop)()
	err := t.run(s.config.Grace)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Negotiate connects to the export that uri names, as Dial does, and leaves the transmission phase to the caller: to hand
// the connection to Linux's NBD driver, for one, which wants config.NoStructuredReplies. It returns the connection, with TLS
// on it where TLS was asked for, and what was agreed on. config.Connections and config.Reconnect do not matter.
func Negotiate(ctx context.Context, uri string, config DialConfig) (net.Conn, ExportInfo, error) {
	u, d, err := newDialer(uri, config)
	if err != nil {
		return nil, ExportInfo{}, err
	}
	h, err := d.shake(ctx, func(ctx context.Context, h *handshake) error { return h.choose(ctx, u.Export, d.secure) })
	if err != nil {
		return nil, ExportInfo{}, fmt.Errorf("%s: %w", uri, err)
	}
	return h.conn, h.agreed.info, nil
}

// Flags are the transmission flags that say of the export what i says, as the protocol numbers them.
func (i ExportInfo) Flags() uint16 {
	flags := uint16(exportHasFlags)
	for _, f := range []struct {
		set  bool
		flag uint16
	}{
		{i.ReadOnly, exportReadOnly},
		{i.Flush, exportFlush},
		{i.FUA, exportFUA},
		{i.Rotational, exportRotational},
		{i.Trim, exportTrim},
		{i.WriteZeroes, exportWriteZeroes},
		{i.DF, exportDF},
		{i.MultiConn, exportMultiConn},
		{i.Cache, exportCache},
		{i.FastZero, exportFastZero},
	} {
		if f.set {
			flags |= f.flag
		}
	}
	return flags
}
