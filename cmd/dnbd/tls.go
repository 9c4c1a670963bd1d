package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// tlsFlags say how to use TLS with NBD servers.
type tlsFlags struct {
	use                     bool
	cert, key, ca, hostname string
}

// add gives them to a command.
func (t *tlsFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&t.use, "tls", false, "read over NBD with TLS only (default: where the server's group says that it needs it)")
	f.StringVar(&t.ca, "tls-ca", "", "trust servers with certificates of the authorities in this PEM `FILE` (default: the system's); with --tls")
	f.StringVar(&t.cert, "tls-cert", "", "this client's certificate, a PEM `FILE`; with --tls")
	f.StringVar(&t.key, "tls-key", "", "the key of --tls-cert, a PEM `FILE`")
	f.StringVar(&t.hostname, "tls-hostname", "", "the `NAME` in the servers' certificates (default: the host that is connected to); with --tls")
}

// args are the flags of a process in the background.
func (t *tlsFlags) args() (args []string) {
	if t.use {
		args = append(args, "--tls")
	}
	for _, v := range []struct{ flag, text string }{
		{"tls-cert", t.cert}, {"tls-key", t.key}, {"tls-ca", t.ca}, {"tls-hostname", t.hostname},
	} {
		if v.text != "" {
			args = append(args, "--"+v.flag+"="+v.text)
		}
	}
	return args
}

// config is what the flags say: nil where there are none. With any of them TLS is used.
func (t tlsFlags) config() (*tls.Config, error) {
	if t == (tlsFlags{}) {
		return nil, nil
	}
	c := &tls.Config{ServerName: t.hostname}
	if t.ca != "" {
		pem, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, fmt.Errorf("CA certificates: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA certificates: %s has none", t.ca)
		}
	}
	if t.cert != "" || t.key != "" {
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
