package nbd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dnbd/dnbd/nbd"
)

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, a.key)
	return a
}

// sign completes and signs a certificate for key; the authority's own when there is none yet.
func (a *authority) sign(cert *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	cert.SerialNumber = big.NewInt(time.Now().UnixNano())
	cert.NotBefore, cert.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = cert
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, a.key)
	ok(a.t, err)
	cert, err = x509.ParseCertificate(der)
	ok(a.t, err)
	return cert
}

// issue writes a certificate and its key to NAME-cert.pem and NAME-key.pem in folder.
func (a *authority) issue(folder, name string) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	cert := a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		DNSNames:    []string{"nbd.example"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	ok(a.t, err)
	a.write(folder, name+"-cert.pem", "CERTIFICATE", cert.Raw)
	a.write(folder, name+"-key.pem", "PRIVATE KEY", der)
}

func (a *authority) write(folder, name, kind string, der []byte) {
	ok(a.t, os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// folder makes a folder with the authority's certificate, and others of these names.
func (a *authority) folder(names ...string) string {
	folder := a.t.TempDir()
	a.write(folder, "ca-cert.pem", "CERTIFICATE", a.cert.Raw)
	for _, name := range names {
		a.issue(folder, name)
	}
	return folder
}

func TestClientEncrypts(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	server := []string{"nbdkit", "-f", "--exit-with-parent", "--tls=require", "--tls-verify-peer", "--tls-certificates=" + ours.folder("server")}
	address := freeAddress(t)
	spawn(t, "tcp", address, append(server, "-i", "127.0.0.1", "-p", address[len("127.0.0.1:"):], "pattern", "size=1T")...)
	socket := filepath.Join(t.TempDir(), "s")
	spawn(t, "unix", socket, append(server, "-U", socket, "pattern", "size=1T")...)
	plain := nbdkit(t, "--tls=off", "null")

	good, anonymous, strange := ours.folder("client"), ours.folder(), others.folder("client")
	port := address[len("127.0.0.1"):]
	for _, c := range []struct {
		name, uri string
		reason    string // of the failure; none means success
	}{
		{"over TCP", "nbds://127.0.0.1" + port + "/?tls-certificates=" + good, ""},
		{"over a unix socket", "nbds+unix:///?socket=" + socket + "&tls-certificates=" + good, ""},
		{"by the certificate's name", "nbds://127.0.0.1" + port + "/?tls-hostname=nbd.example&tls-certificates=" + good, ""},
		{"under another name", "nbds://127.0.0.1" + port + "/?tls-hostname=example.com&tls-certificates=" + good, "example.com; tls-hostname"},
		{"whoever it is", "nbds://127.0.0.1" + port + "/?tls-hostname=example.com&tls-verify-peer=0&tls-certificates=" + good, ""},
		{"of another authority", "nbds://127.0.0.1" + port + "/?tls-certificates=" + strange, "tls-certificates names a folder"},
		{"of another authority on a unix socket", "nbds+unix:///?socket=" + socket + "&tls-certificates=" + strange, "tls-certificates names a folder"},
		{"of the system's authorities", "nbds://127.0.0.1" + port + "/", "unknown authority"},
		{"without a certificate of its own", "nbds://127.0.0.1" + port + "/?tls-certificates=" + anonymous, "client-cert.pem"},
		{"without TLS", "nbd://127.0.0.1" + port + "/", "nbds://"},
		{"with a server without TLS", strings.Replace(plain, "nbd+", "nbds+", 1) + "&tls-certificates=" + good, "STARTTLS"},
		{"without a folder", "nbds://127.0.0.1" + port + "/?tls-certificates=/nonexistent", "ca-cert.pem"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, err := nbd.Dial(soon(t), c.uri, nbd.DialConfig{Connections: 2})
			if c.reason != "" {
				if err == nil {
					client.Close()
				}
				if err == nil || !strings.Contains(err.Error(), c.reason) {
					t.Errorf("Dial: %v, want %q", err, c.reason)
				}
				if c.name == "without TLS" && !errors.Is(err, fs.ErrPermission) {
					t.Errorf("Dial: %v, want fs.ErrPermission", err)
				}
				return
			}
			ok(t, err)
			defer client.Close()
			if info := client.Info(); info.TLS == nil || info.Connections != 2 {
				t.Errorf("Info: %+v", info)
			}
			readAtRandom(t, client, 4, 10, 300_000)
		})
	}
	t.Run("list", func(t *testing.T) {
		list, err := nbd.List(soon(t), "nbds://127.0.0.1"+port+"/?tls-certificates="+good, nbd.DialConfig{})
		ok(t, err)
		if len(list) != 1 || list[0].Size != 1<<40 {
			t.Errorf("List: %+v", list)
		}
	})
}
