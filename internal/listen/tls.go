package listen

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// TLS returns how a server with this certificate and key, in PEM files, uses TLS. With a file of authorities clients must have a
// certificate that one of them signed.
func TLS(cert, key, authorities string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", cert, key, err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, DynamicRecordSizingDisabled: true}
	if authorities == "" {
		return c, nil
	}
	pem, err := os.ReadFile(authorities)
	if err != nil {
		return nil, fmt.Errorf("certificates of authorities: %w", err)
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	// Asked for a certificate by TLS 1.3, GnuTLS 3.7 (libnbd and QEMU on Debian 12) sends no RSA certificate: it looks for that signature
	// among the handshake's algorithms, where Go does not name it.
	c.MaxVersion = tls.VersionTLS12
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificates of authorities: there is none in %s, in PEM form", authorities)
	}
	return c, nil
}

// OperatorTLS returns how a server with this certificate and key, in PEM files, uses TLS with its operators: they must have a certificate
// that is in the file operators, or that one in there signed.
func OperatorTLS(cert, key, operators string) (*tls.Config, error) {
	c, err := TLS(cert, key, operators)
	if err != nil {
		return nil, err
	}
	// All that operate are of today, and each connection shows its certificate.
	c.MinVersion, c.MaxVersion, c.SessionTicketsDisabled = tls.VersionTLS13, 0, true
	return c, nil
}
