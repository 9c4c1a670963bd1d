package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"

	"github.com/dnbd/dnbd/internal/listen"
)

// operators is where operators connect, and how they prove who they are; nothing without --operators.
type operators struct {
	l   net.Listener
	tls *tls.Config
}

// openOperators opens what --operators asks for.
func (f *exportFlags) openOperators(ctx context.Context, log *slog.Logger) (o operators, err error) {
	if f.operators == "" {
		return o, nil
	}
	networks, err := f.networks()
	if err != nil {
		return o, err
	}
	if o.tls, err = listen.OperatorTLS(f.tlsCert, f.tlsKey, f.operators); err != nil {
		return o, fmt.Errorf("--operators: %w", err)
	}
	var c net.ListenConfig
	if o.l, err = c.Listen(ctx, "tcp", f.operatorsAt); err != nil {
		return o, fmt.Errorf("--operators-at %s: %w", f.operatorsAt, err)
	}
	o.l = listen.Allow(o.l, networks, log)
	return o, nil
}

// close is for when nobody serves them.
func (o operators) close() {
	if o.l != nil {
		_ = o.l.Close() // again, mostly
	}
}
