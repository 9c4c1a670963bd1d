//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// nbdTLS is what encryption costs.
var nbdTLS = scenario{
	name:  "tls",
	title: "a file from beginning to end, over TLS",
	about: "`nbdcopy nbds://… null:` over TCP, with certificates of ECDSA on P-256 for the servers and none for the client. " +
		"dnbd and nbdkit are compared. nbdcopy decrypts on the same processors as the server encrypts on.",
	run:     runNBDTLS,
	timeout: 5 * time.Minute,
}

func runNBDTLS(ctx context.Context, r *rig, s *section) error {
	path, size, err := r.disk()
	if err != nil {
		return err
	}
	if err := certify(r.certificate("")); err != nil {
		return err
	}
	var races []race
	for _, connections := range []int{1, 4} {
		races = append(races, race{
			label:    "TLS, " + count(connections, "connection"),
			export:   export{path: path, network: "tcp", tls: true},
			programs: []nbdProgram{dnbdServer, nbdkit},
			load:     nbdcopy(connections, size),
			unit:     "MB/s",
			result:   atLeast(0.9, 1.2),
			work:     perGiBMoved,
		})
	}
	return r.runRaces(ctx, s, r.either(7, 2), races...)
}

// certificate is the path of a file in the folder with certificates, or of the folder.
func (r *rig) certificate(name string) string { return filepath.Join(r.dir, "tls", name) }

// certify makes a folder with an authority and a server's certificate and key, under the names that GnuTLS programs look for.
func certify(dir string) error {
	begin := time.Now().Add(-time.Hour)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench authority"},
		NotBefore: begin, NotAfter: begin.AddDate(0, 0, 2),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: begin, NotAfter: begin.AddDate(0, 0, 2),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	authorityKey, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	serverKey, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	authorityDER, err1 := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	serverDER, err2 := x509.CreateCertificate(rand.Reader, server, authority, &serverKey.PublicKey, authorityKey)
	keyDER, err3 := x509.MarshalPKCS8PrivateKey(serverKey)
	if err := errors.Join(err1, err2, err3, os.MkdirAll(dir, 0o700)); err != nil {
		return err
	}
	return errors.Join(
		writePEM(filepath.Join(dir, "ca-cert.pem"), "CERTIFICATE", authorityDER),
		writePEM(filepath.Join(dir, "server-cert.pem"), "CERTIFICATE", serverDER),
		writePEM(filepath.Join(dir, "server-key.pem"), "PRIVATE KEY", keyDER),
	)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
