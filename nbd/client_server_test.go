package nbd_test

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/dnbd/dnbd/nbd"
)

// ram is a device with every capability.
type ram struct {
	mu sync.RWMutex
	b  []byte
}

func (m *ram) Size() int64 { return int64(len(m.b)) }

func (m *ram) ReadAt(_ context.Context, p []byte, off int64) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	copy(p, m.b[off:])
	return nil
}

func (m *ram) WriteAt(_ context.Context, p []byte, off int64, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.b[off:], p)
	return nil
}
func (m *ram) Flush(context.Context) error                        { return nil }
func (m *ram) Trim(_ context.Context, off, n int64, _ bool) error { return nil }
func (m *ram) Prefetch(_ context.Context, off, n int64) error     { return nil }
func (m *ram) WriteZeroes(_ context.Context, off, n int64, _, _, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.b[off : off+n])
	return nil
}

func (m *ram) Extents(_ context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for end := off + n; off < end; {
		next := min(off+4096, m.Size())
		z := len(bytes.Trim(m.b[off:next], "\x00")) == 0
		if !yield(next-off, z, z) {
			return nil
		}
		off = next
	}
	return nil
}

func TestClientAndServerTogether(t *testing.T) {
	server, err := nbd.NewServer(nbd.ServerConfig{Exports: []nbd.Export{{Name: "x", Device: &ram{b: make([]byte, 3<<20)}}}})
	ok(t, err)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	ok(t, err)
	done := make(chan error)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- server.Serve(ctx, l) }()
	defer func() { cancel(); ok(t, <-done) }()
	for _, config := range []nbd.DialConfig{{Connections: 4}, {NoExtendedHeaders: true}, {NoStructuredReplies: true}} {
		c, err := nbd.Dial(soon(t), "nbd+unix:///x?socket="+socket, config)
		ok(t, err)
		checkWritable(t, c, 200)
		ok(t, c.Prefetch(soon(t), 0, c.Size()))
		if !config.NoStructuredReplies {
			checkExtents(t, c)
		}
		c.Close()
	}
}

// checkExtents checks that all of an export is mapped, and that what is said to be zero is.
func checkExtents(t *testing.T, c *nbd.Client) {
	t.Helper()
	off := int64(0)
	ok(t, c.Extents(soon(t), 0, c.Size(), func(n int64, _, zero bool) bool {
		p := make([]byte, n)
		ok(t, c.ReadAt(soon(t), p, off))
		if zero && len(bytes.Trim(p, "\x00")) > 0 {
			t.Errorf("%d bytes at %d are not zero", n, off)
		}
		off += n
		return true
	}))
	if off != c.Size() {
		t.Errorf("extents of %d bytes, want %d", off, c.Size())
	}
}
