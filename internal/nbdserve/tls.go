package nbdserve

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/dnbd/dnbd/internal/nbdconf"
	"github.com/dnbd/dnbd/nbd"
)

// TLS reads the certificates that a configuration names, and says how to use TLS. Without a keyfile that is not at all.
func TLS(c *nbdconf.Config) (nbd.TLSMode, *tls.Config, error) {
	if c.KeyFile == "" {
		return nbd.TLSOff, nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nbd.TLSOff, nil, fmt.Errorf("certfile %s and keyfile %s: %w", c.CertFile, c.KeyFile, err)
	}
	t := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: c.TLS.Min, MaxVersion: c.TLS.Max}
	if c.CACertFile != "" {
		pem, err := os.ReadFile(c.CACertFile)
		if err != nil {
			return nbd.TLSOff, nil, fmt.Errorf("cacertfile: %w", err)
		}
		t.ClientCAs, t.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !t.ClientCAs.AppendCertsFromPEM(pem) {
			return nbd.TLSOff, nil, fmt.Errorf("cacertfile %s: there is no certificate in it, as PEM", c.CACertFile)
		}
	}
	if c.ForceTLS {
		return nbd.TLSRequired, t, nil
	}
	return nbd.TLSOn, t, nil
}
