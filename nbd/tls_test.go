package nbd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// authority signs certificates, and lays them out in directories as GnuTLS clients want them.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.issue("authority", x509.ExtKeyUsageAny)
	return a
}

// issue makes a certificate for name, signed by the authority, or by itself if there is none yet.
func (a *authority) issue(name string, usage x509.ExtKeyUsage) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{name},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{usage},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage |= x509.KeyUsageCertSign
		template.ExtKeyUsage = nil
		parent, signer = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// server is the configuration of a server that wants certificates of its clients.
func (a *authority) server() *tls.Config {
	cert, key := a.issue("localhost", x509.ExtKeyUsageServerAuth)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
	}
}

// client is the configuration of a client that has a certificate.
func (a *authority) client() *tls.Config {
	cert, key := a.issue("client", x509.ExtKeyUsageClientAuth)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{
		ServerName:   "localhost",
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		RootCAs:      pool,
	}
}

// directory is where a foreign client finds the authority, and a certificate of its own that the same or another
// authority signed.
func (a *authority) directory(signer *authority) string {
	a.t.Helper()
	dir := a.t.TempDir()
	cert, key := signer.issue("client", x509.ExtKeyUsageClientAuth)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for name, block := range map[string]pem.Block{
		"ca-cert.pem":     {Type: "CERTIFICATE", Bytes: a.cert.Raw},
		"client-cert.pem": {Type: "CERTIFICATE", Bytes: cert.Raw},
		"client-key.pem":  {Type: "PRIVATE KEY", Bytes: raw},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return dir
}

// secured upgrades a client to TLS.
func (c *client) secured(config *tls.Config) *client {
	c.t.Helper()
	if r := c.option(optStartTLS, nil); r[0].kind != repAck {
		c.t.Fatalf("STARTTLS: %v", r)
	}
	secure := tls.Client(c.conn, config)
	if err := secure.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.conn = secure
	return c
}

func TestTLSCarriesEverything(t *testing.T) {
	a := newAuthority(t)
	d := newDisk(40 << 20)
	s := serve(t, ServerConfig{Exports: []Export{{Device: d}}, TLSMode: TLSOn, TLS: a.server(), IdleTimeout: time.Minute}, listen(t, "tcp"))
	for _, style := range styles {
		n := dial(t, s.addr).greet(flagFixedNewstyle).secured(a.client())
		n.agree(style)
		n.enter("")
		big := strings.Repeat("large ", 5<<20)
		n.put(77, big)
		if n.get(77, uint64(len(big))) != big {
			t.Errorf("style %d: other bytes came back", style)
		}
		for range 100 {
			n.put(0, "small")
			if got := n.get(0, 5); got != "small" {
				t.Errorf("style %d: got %q", style, got)
			}
		}
		n.write(map[bool][]byte{
			false: requestBytes(0, cmdDisconnect, 1, 0, 0),
			true:  extendedBytes(0, cmdDisconnect, 1, 0, 0),
		}[style == styleExtended])
		n.closed() // with TLS's own goodbye: anything else is an error
	}
	if a := dial(t, s.addr).chosen(styleSimple).request(0, cmdRead, 0, 5); string(a.data) != "small" {
		t.Errorf("without TLS, which is optional: %+v", a)
	}
}

func TestNothingIsSaidWithoutTLSWhereItIsRequired(t *testing.T) {
	a := newAuthority(t)
	s := serve(t, ServerConfig{Exports: twoExports(), TLSMode: TLSRequired, TLS: a.server()}, listen(t, "tcp"))
	n := dial(t, s.addr).greet(flagFixedNewstyle | flagNoZeroes)
	for option, data := range map[uint32][]byte{
		optList: nil, optInfo: infoData("debian"), optGo: infoData("nosuch"), optStructuredReply: nil, optExtendedHeaders: nil,
		optSetMetaContext: queriesData("debian"), optListMetaContext: nil, 4711: nil, 4712: make([]byte, maxOption+1),
	} {
		if r := n.option(option, data); len(r) != 1 || r[0].kind != repErrTLSReqd {
			t.Errorf("option %d: %v", option, r)
		}
	}
	n.secured(a.client())
	if r := n.option(optList, nil); len(r) != 3 {
		t.Errorf("LIST with TLS: %v", r)
	}
	if r := n.option(optStartTLS, nil); r[0].kind != repErrInvalid {
		t.Errorf("STARTTLS with TLS: %v", r)
	}

	n = dial(t, s.addr).greet(flagFixedNewstyle)
	n.write(optionBytes(optExportName, []byte("debian")))
	n.closed()
	n = dial(t, s.addr)
	n.read(18)
	n.write([]byte{0, 0, 0, 0}) // a client that cannot be told why not
	n.closed()
	if r := dial(t, s.addr).greet(flagFixedNewstyle).option(optAbort, nil); !slices.Equal(r, []optReply{{repAck, ""}}) {
		t.Errorf("ABORT: %v", r)
	}
}

func TestWhatWasAgreedOnBeforeTLSIsForgotten(t *testing.T) {
	a := newAuthority(t)
	s := serve(t, ServerConfig{Exports: twoExports(), TLSMode: TLSOn, TLS: a.server()}, listen(t, "tcp"))
	for _, style := range styles[1:] {
		n := dial(t, s.addr).greet(flagFixedNewstyle)
		n.agree(style)
		n.option(optSetMetaContext, queriesData("", ContextAllocation))
		n.secured(a.client())
		n.style = styleSimple
		if r := n.option(optSetMetaContext, queriesData("", ContextAllocation)); r[0].kind != repErrInvalid {
			t.Errorf("style %d: contexts without structured replies: %v", style, r)
		}
		n.agree(styleStructured)
		n.enter("")
		if got := n.get(5, 3); got != string(patternBytes(5, 3)) {
			t.Errorf("style %d: got %q", style, got)
		}
		if a := n.request(0, cmdBlockStatus, 0, 512); a.errno != errInvalid {
			t.Errorf("style %d: a context survived: %+v", style, a)
		}
	}
}

func TestWhatIsInjectedBeforeTLSIsNotCarriedOver(t *testing.T) {
	a := newAuthority(t)
	s := serve(t, ServerConfig{Exports: twoExports(), TLSMode: TLSOn, TLS: a.server()}, listen(t, "tcp"))
	n := dial(t, s.addr).greet(flagFixedNewstyle)
	n.write(append(optionBytes(optStartTLS, nil), optionBytes(optStructuredReply, nil)...))
	if got := string(n.read(20)); got[12:] != "\x00\x00\x00\x01\x00\x00\x00\x00" {
		t.Errorf("STARTTLS: %q", got)
	}
	n.closed()
}

func TestSTARTTLSWithDataIsInvalid(t *testing.T) {
	s := serve(t, ServerConfig{Exports: twoExports(), TLSMode: TLSOn, TLS: newAuthority(t).server()}, listen(t, "tcp"))
	if r := dial(t, s.addr).greet(flagFixedNewstyle).option(optStartTLS, []byte{1}); r[0].kind != repErrInvalid {
		t.Errorf("got %v", r)
	}
}

func TestTLSWithoutAConfigurationIsAnError(t *testing.T) {
	if _, err := NewServer(ServerConfig{Exports: twoExports(), TLSMode: TLSRequired}); err == nil {
		t.Error("no error")
	}
}

func TestForeignClientsUseTLS(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	good, bad := a.directory(a), a.directory(stranger)
	d := newDisk(8 << 20)
	for i := range d.b {
		d.b[i], d.data[i/page] = byte(i*7), true
	}
	s := serve(t, ServerConfig{Exports: []Export{{Device: d}}, TLSMode: TLSRequired, TLS: a.server()}, listen(t, "tcp"))
	port := s.addr.(*net.TCPAddr).Port
	secure := func(dir string) string { return "nbds://localhost:" + strconv.Itoa(port) + "/?tls-certificates=" + dir }

	out, err := program(t, "nbdinfo", secure(good))
	if must(t, out, err); !strings.Contains(out, "with TLS") || !strings.Contains(out, "export-size: 8388608") {
		t.Errorf("nbdinfo:\n%s", out)
	}
	dest := filepath.Join(t.TempDir(), "copy")
	out, err = program(t, "nbdcopy", secure(good), dest)
	must(t, out, err)
	if got, err := os.ReadFile(dest); err != nil || string(got) != d.text(0, 8<<20) {
		t.Errorf("nbdcopy: other bytes (%v)", err)
	}
	if err := os.WriteFile(dest, []byte(strings.Repeat("upload. ", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = program(t, "nbdcopy", dest, secure(good))
	must(t, out, err)
	if got := d.text(0, 8<<20); got != strings.Repeat("upload. ", 1<<20) {
		t.Error("nbdcopy to the server: other bytes")
	}
	for name, uri := range map[string]string{
		"a stranger's certificate": secure(bad),
		"no TLS":                   "nbd://localhost:" + strconv.Itoa(port),
	} {
		if out, err := program(t, "nbdinfo", uri); err == nil {
			t.Errorf("nbdinfo with %s:\n%s", name, out)
		}
	}
	image := "driver=nbd,host=localhost,port=" + strconv.Itoa(port) + ",tls-creds=t"
	out, err = program(t, "qemu-img", "compare", "--object", "tls-creds-x509,id=t,endpoint=client,dir="+good, "--image-opts", image,
		"driver=raw,file.driver=file,file.filename="+dest)
	must(t, out, err)
}
