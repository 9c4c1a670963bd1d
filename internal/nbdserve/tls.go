package nbdserve

import (
	"crypto/tls"
	"fmt"

	"github.com/dnbd/dnbd/internal/listen"
	"github.com/dnbd/dnbd/internal/nbdconf"
	"github.com/dnbd/dnbd/nbd"
)

// TLS reads the certificates that a configuration names, and says how to use TLS. Without a keyfile that is not at all.
func TLS(c *nbdconf.Config) (nbd.TLSMode, *tls.Config, error) {
	if c.KeyFile == "" {
		return nbd.TLSOff, nil, nil
	}
	t, err := listen.TLS(c.CertFile, c.KeyFile, c.CACertFile)
	if err != nil {
		return nbd.TLSOff, nil, fmt.Errorf("certfile, keyfile, cacertfile: %w", err)
	}
	t.MinVersion = c.TLS.Min
	// The version that suits old clients best gives way to what was asked for.
	if best := t.MaxVersion; best == 0 || c.TLS.Max < best || c.TLS.Min > best {
		t.MaxVersion = c.TLS.Max
	}
	if c.ForceTLS {
		return nbd.TLSRequired, t, nil
	}
	return nbd.TLSOn, t, nil
}
