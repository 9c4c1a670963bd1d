package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/server"
	"github.com/dnbd/dnbd/internal/wire"
	"github.com/dnbd/dnbd/nbd"
)

// serveNBD serves an image to a group of its own and over NBD, and returns HOST:PORT of that.
func serveNBD(t *testing.T, m *image.Image, secure *tls.Config) (host string, stop func()) {
	t.Helper()
	n := loopback(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := nbd.ServerConfig{TLS: secure}
	if secure != nil {
		config.TLSMode = nbd.TLSRequired
	}
	stop = serveWith(t, server.Config{
		Group: n.Group, Interfaces: n.Interfaces, Log: quiet, NBD: server.NBD{Listeners: []net.Listener{l}, ServerConfig: config},
	}, m)
	return l.Addr().String(), stop
}

// all is when every host was heard or has failed.
func all(d Discovery) bool { return d.Complete }

func TestHostsTellWhatTheyHave(t *testing.T) {
	m := makeImage(t, content(), 64<<10)
	want := m.Descriptor()
	host, _ := serveNBD(t, m, nil)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	d, err := Find(t.Context(), Network{Hosts: []string{host, gone.Addr().String()}, Log: quiet}, wire.Hello{}, all)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Found) != 1 || d.Found[0].Descriptor.ID() != want.ID() || d.Found[0].Descriptor.Name != want.Name ||
		!d.Found[0].Descriptor.Created.Equal(want.Created) {
		t.Errorf("found %+v, want %+v", d.Found, want)
	}
	if len(d.Failed) != 1 || !errors.Is(d.Failed[gone.Addr().String()], syscall.ECONNREFUSED) {
		t.Errorf("failed: %v", d.Failed)
	}
}

func TestAHostThatServesNoGroupSaysSo(t *testing.T) {
	m := makeImage(t, content(), 64<<10)
	defer m.Close()
	host := net.JoinHostPort("127.0.0.1", portText(exportBlocks(t, m, m.Blocks())))
	d, err := Find(t.Context(), Network{Hosts: []string{host}, Log: quiet}, wire.Hello{}, all)
	if err != nil || d.Failed[host] == nil || !strings.Contains(d.Failed[host].Error(), "serves no images of a group") {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestClientWithHostsConforms(t *testing.T) {
	for _, blockSize := range []int{4 << 10, 64 << 10, 1 << 20} {
		data := content()
		m := makeImage(t, data, blockSize)
		d := m.Descriptor()
		host, _ := serveNBD(t, m, nil)
		blocktest.Conform(t, data, func(t *testing.T) block.Device {
			return open(t, Config{Network: Network{Hosts: []string{host}}, Descriptor: d})
		})
		c := open(t, Config{Network: Network{Hosts: []string{host}}, Descriptor: d})
		got := make([]byte, len(data))
		if err := c.Copy(t.Context(), collect(got)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("blocks of %d: copy: %v, or other bytes", blockSize, err)
		}
	}
}

func TestReadsGoOnWithAnotherHost(t *testing.T) {
	data := content()
	m := makeImage(t, data, 64<<10)
	d := m.Descriptor()
	again, err := image.Open(m.Path())
	if err != nil {
		t.Fatal(err)
	}
	first, stop := serveNBD(t, m, nil)
	second, _ := serveNBD(t, again, nil)
	// One that takes connections and says nothing, one that has another revision, and one whose disk fails.
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	old := makeImage(t, data[:1<<20], 64<<10)
	other, _ := serveNBD(t, old, nil)
	third, err := image.Open(m.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	faulty := net.JoinHostPort("127.0.0.1", portText(exportBlocks(t, third, failing{third.Blocks(), 1 << 20})))
	hosts := []string{first, mute.Addr().String(), other, faulty, second}
	c := open(t, Config{Network: Network{Hosts: hosts}, Descriptor: d, IOTimeout: time.Minute})
	got := make([]byte, len(data)/2)
	if err := c.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, data[:len(got)]) {
		t.Errorf("read: %v, or other bytes", err)
	}
	stop()
	got = make([]byte, len(data))
	if err := c.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read after the end of one: %v, or other bytes", err)
	}
	for _, h := range c.Stats().Hosts {
		if works := h.Addr == second; h.Live != works || (h.Why == nil) != works && h.Addr != mute.Addr().String() {
			t.Errorf("host %+v", h)
		}
	}
}

func TestReadsWaitForAHostThatComesBack(t *testing.T) {
	data := content()
	m := makeImage(t, data, 64<<10)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c := open(t, Config{Network: Network{Hosts: []string{l.Addr().String()}}, Descriptor: m.Descriptor()})
	got := make([]byte, len(data))
	result := make(chan error, 1)
	go func() { result <- c.ReadAt(context.Background(), got, 0) }()
	eventually(t, "the host is found missing", func() bool { return c.Stats().Hosts[0].Why != nil })
	n := loopback(t)
	again, err := net.Listen("tcp", l.Addr().String())
	if err != nil {
		t.Skip(err) // somebody else took the port
	}
	serveWith(t, server.Config{
		Group: n.Group, Interfaces: n.Interfaces, Log: quiet, NBD: server.NBD{Listeners: []net.Listener{again}},
	}, m)
	if err := <-result; err != nil || !bytes.Equal(got, data) {
		t.Errorf("read: %v, or other bytes", err)
	}
	if s := c.Stats(); !s.Hosts[0].Live || s.Hosts[0].Why != nil {
		t.Errorf("host %+v", s.Hosts[0])
	}
}

func TestHostsAreReadWithTLS(t *testing.T) {
	data := content()
	m := makeImage(t, data, 64<<10)
	theirs, ours := certificates(t)
	d := m.Descriptor()
	host, _ := serveNBD(t, m, theirs)
	secure := Network{Hosts: []string{host}, TLS: ours, Log: quiet}
	if d, err := Find(t.Context(), secure, wire.Hello{}, all); err != nil || len(d.Found) != 1 {
		t.Errorf("found %+v, %v", d, err)
	}
	c := open(t, Config{Network: secure, Descriptor: d})
	got := make([]byte, len(data))
	if err := c.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read: %v, or other bytes", err)
	}
	for name, n := range map[string]Network{
		"in the clear":            {Hosts: []string{host}, Log: quiet},
		"of an unknown authority": {Hosts: []string{host}, Log: quiet, TLS: &tls.Config{}},
	} {
		if d, err := Find(t.Context(), n, wire.Hello{}, all); err != nil || d.Failed[host] == nil {
			t.Errorf("%s: %+v, %v, want a failure", name, d, err)
		}
	}
}

// certificates returns the configurations of a server and of a client that trusts it.
func certificates(t *testing.T) (theirs, ours *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool}
}

// failing is a device that fails behind a place, as a disk does.
type failing struct {
	nbd.Device
	from int64
}

func (f failing) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off+int64(len(p)) > f.from {
		return syscall.EIO
	}
	return f.Device.ReadAt(ctx, p, off)
}

func portText(port uint16) string { return strconv.Itoa(int(port)) }
