package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// The files of a folder of certificates, as GnuTLS's users, libnbd, qemu and nbdkit, call them.
const (
	fileCA         = "ca-cert.pem"
	fileClientCert = "client-cert.pem"
	fileClientKey  = "client-key.pem"
)

// tlsConfig is the configuration of TLS that u's parameters mean. The client's own certificate may be absent from the
// folder, the authority's may not.
func (u URI) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{ServerName: u.serverName(), InsecureSkipVerify: u.NoVerify}
	if u.Certificates != "" {
		pem, err := os.ReadFile(filepath.Join(u.Certificates, fileCA))
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificates: no certificate in %s", filepath.Join(u.Certificates, fileCA))
		}
		own, err := tls.LoadX509KeyPair(filepath.Join(u.Certificates, fileClientCert), filepath.Join(u.Certificates, fileClientKey))
		switch {
		case err == nil:
			config.Certificates = []tls.Certificate{own}
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("client's certificate and key in %s: %w", u.Certificates, err)
		}
	}
	if config.ServerName == "" && !u.NoVerify {
		// A unix socket has no name that a certificate could be for. That the authority signed it is checked all the same.
		config.InsecureSkipVerify = true
		config.VerifyConnection = func(state tls.ConnectionState) error {
			options := x509.VerifyOptions{Roots: config.RootCAs, Intermediates: x509.NewCertPool()}
			for _, c := range state.PeerCertificates[1:] {
				options.Intermediates.AddCert(c)
			}
			_, err := state.PeerCertificates[0].Verify(options)
			return err
		}
	}
	return config, nil
}

// explainTLS adds to an error of TLS what the URI can say about it. By TLS 1.3 a client that is refused finds out when it is secure
// already, and some servers just hang up.
func explainTLS(err error, secure bool) error {
	var socket *net.OpError // crypto/tls has it for what the other side says, too
	hungUp := secure && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF))
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.As(err, &authority):
		return fmt.Errorf("%w; tls-certificates names a folder with the %s of the authority that signed the server's", err, fileCA)
	case errors.As(err, &name):
		return fmt.Errorf("%w; tls-hostname says for which name the server's certificate has to be", err)
	case hungUp, errors.As(err, &socket) && socket.Op == "remote error":
		return fmt.Errorf("%w; perhaps the server wants another certificate: %s and %s in the folder of tls-certificates", err,
			fileClientCert, fileClientKey)
	}
	return err
}
