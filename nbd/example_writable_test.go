package nbd_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"

	"github.com/dnbd/dnbd/nbd"
)

// memory is a device that can be written to. It has nothing to flush, but says that it can be: so clients may use several
// connections at once.
type memory struct {
	mu sync.RWMutex
	b  []byte
}

func (m *memory) Size() int64 { return int64(len(m.b)) }

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	copy(p, m.b[off:])
	return nil
}

func (m *memory) WriteAt(_ context.Context, p []byte, off int64, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.b[off:], p)
	return nil
}

func (m *memory) WriteZeroes(_ context.Context, off, n int64, _, _, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.b[off : off+n])
	return nil
}

func (m *memory) Flush(context.Context) error { return nil }

// A device with more methods offers more.
func Example_writable() {
	disk := &memory{b: make([]byte, 1<<20)}
	server, err := nbd.NewServer(nbd.ServerConfig{
		Exports: []nbd.Export{
			{Name: "disk", Device: disk},
			{Name: "the same, to look at", Device: disk, ReadOnly: true},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	// Serve it, then: nbdcopy FILE nbd://HOST/disk

	fmt.Println(server.Stats().Written)
	// Output: 0
}

// Clients need a certificate that one of ClientCAs has signed.
func Example_tls() {
	server, err := nbd.NewServer(nbd.ServerConfig{
		Exports: []nbd.Export{{Name: "disk", Device: &memory{b: make([]byte, 1<<20)}}},
		TLSMode: nbd.TLSRequired,
		TLS: &tls.Config{
			Certificates: nil, // the server's own, by tls.LoadX509KeyPair
			ClientCAs:    nil, // a pool with the authority's certificate
			ClientAuth:   tls.RequireAndVerifyClientCert,
		},
	})
	fmt.Println(server != nil, err)
	// Output: true <nil>
}
