package nbdserve

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/nbdconf"
	"github.com/dnbd/dnbd/nbd"
)

// certificate writes a certificate and its key into one file and returns its path.
func certificate(t *testing.T) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "pem")
	write(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))+
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	return path
}

func TestTLSIsAsTheKeysSay(t *testing.T) {
	pair := certificate(t)
	versions := nbdconf.NewConfig().TLS
	for _, c := range []struct {
		name   string
		config nbdconf.Config
		mode   nbd.TLSMode
		auth   tls.ClientAuthType
		most   uint16
	}{
		{"no keyfile", nbdconf.Config{}, nbd.TLSOff, 0, 0},
		{"a keyfile", nbdconf.Config{KeyFile: pair, CertFile: pair, TLS: versions}, nbd.TLSOn, tls.NoClientCert, tls.VersionTLS13},
		{"forced", nbdconf.Config{KeyFile: pair, CertFile: pair, ForceTLS: true, TLS: versions}, nbd.TLSRequired, tls.NoClientCert, tls.VersionTLS13},
		{"certificates of clients", nbdconf.Config{KeyFile: pair, CertFile: pair, CACertFile: pair, TLS: versions}, nbd.TLSOn, tls.RequireAndVerifyClientCert, tls.VersionTLS12},
	} {
		mode, config, err := TLS(&c.config)
		if err != nil || mode != c.mode || (config == nil) != (mode == nbd.TLSOff) {
			t.Errorf("%s: %v, %v, %v, want %v", c.name, mode, config, err, c.mode)
			continue
		}
		if config != nil && (config.ClientAuth != c.auth || config.MinVersion != tls.VersionTLS12 || config.MaxVersion != c.most) {
			t.Errorf("%s: %+v", c.name, config)
		}
	}
}

func TestCertificatesThatCannotBeReadAreNamed(t *testing.T) {
	pair, other := certificate(t), certificate(t)
	rubbish := filepath.Join(t.TempDir(), "rubbish")
	write(t, rubbish, "rubbish")
	for name, c := range map[string]nbdconf.Config{
		"missing":      {KeyFile: "/nonexistent", CertFile: "/nonexistent"},
		rubbish:        {KeyFile: pair, CertFile: pair, CACertFile: rubbish},
		"cacertfile":   {KeyFile: pair, CertFile: pair, CACertFile: "/nonexistent"},
		"private key":  {KeyFile: rubbish, CertFile: pair},
		"another pair": {KeyFile: other, CertFile: rubbish},
	} {
		if _, _, err := TLS(&c); err == nil || !strings.Contains(err.Error(), "file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
