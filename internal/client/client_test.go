package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/cache"
	"github.com/dnbd/dnbd/internal/server"
	"github.com/dnbd/dnbd/internal/udp"
	"github.com/dnbd/dnbd/internal/wire"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// port gives every test a group of its own on the loopback interface.
var port atomic.Uint32

func loopback(t *testing.T) Network {
	t.Helper()
	p := 20000 + uint16(os.Getpid()%200)*100 + uint16(port.Add(1))
	group := netip.AddrPortFrom(netip.MustParseAddr("239.77.0.1"), p)
	ifaces, err := udp.Interfaces("lo", group.Addr())
	if err != nil {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatalf("multicast on lo: %v", err)
		}
		t.Skipf("multicast on lo: %v", err)
	}
	return Network{Group: group, Interfaces: ifaces, Log: quiet}
}

// content is data with a run of zeros and a short last block.
func content() []byte {
	data := make([]byte, 3<<20+12345)
	rand.NewChaCha8([32]byte{1}).Read(data)
	clear(data[1<<20 : 2<<20])
	return data
}

func makeImage(t *testing.T, data []byte, blockSize int) *image.Image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := image.Create(t.Context(), path, image.CreateOptions{BlockSize: blockSize})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// serve serves an image until the test ends, or stop is called.
func serve(t *testing.T, n Network, m *image.Image) (stop func()) {
	t.Helper()
	return serveWith(t, server.Config{Group: n.Group, Interfaces: n.Interfaces, Log: quiet}, m)
}

func serveWith(t *testing.T, cfg server.Config, m *image.Image) (stop func()) {
	t.Helper()
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context(), []*image.Image{m}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx, []*image.Image{m}); err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func open(t *testing.T, cfg Config) *Client {
	t.Helper()
	cfg.Log = quiet
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestClientConforms(t *testing.T) {
	for _, blockSize := range []int{4 << 10, 64 << 10, 1 << 20} {
		data := content()
		n := loopback(t)
		m := makeImage(t, data, blockSize)
		d := m.Descriptor()
		serve(t, n, m)
		blocktest.Conform(t, data, func(t *testing.T) block.Device {
			return open(t, Config{Network: n, Descriptor: d})
		})
	}
}

func TestFindNamesWhatIsOffered(t *testing.T) {
	n := loopback(t)
	m := makeImage(t, content(), 64<<10)
	serve(t, n, m)
	d, err := Find(t.Context(), n, wire.Hello{Want: wire.HelloName, Name: "disk"}, func(d Discovery) bool { return len(d.Found) > 0 })
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Found[0].Descriptor.ID(); got != m.ID() {
		t.Errorf("found image %v, want %v", got, m.ID())
	}
}

func TestCopyHandsOutEveryByteOnce(t *testing.T) {
	data := content()
	n := loopback(t)
	m := makeImage(t, data, 64<<10)
	serve(t, n, m)
	c := open(t, Config{Network: n, Descriptor: m.Descriptor()})
	got := bytes.Repeat([]byte{0xee}, len(data))
	var mu sync.Mutex
	written, zeros := 0, 0
	err := c.Copy(t.Context(), Sink{
		Write: func(off int64, p []byte) error {
			mu.Lock()
			defer mu.Unlock()
			written += copy(got[off:], p)
			return nil
		},
		Zero: func(off, n int64) error {
			clear(got[off : off+n])
			zeros += int(n)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Error("copy differs from the image")
	}
	if zeros != 1<<20 || written != len(data)-zeros {
		t.Errorf("%d bytes written and %d zeroed, want %d and %d", written, zeros, len(data)-1<<20, 1<<20)
	}
	if s := c.Stats(); s.Network.Asked+s.Network.Overheard > uint64(len(data)) {
		t.Errorf("zero blocks crossed the network: %+v", s.Network)
	}
}

func TestCopyTakesWhatWasReadBefore(t *testing.T) {
	data := content()
	n := loopback(t)
	m := makeImage(t, data, 64<<10)
	serve(t, n, m)
	c := open(t, Config{Network: n, Descriptor: m.Descriptor()})
	half := make([]byte, len(data)/2)
	if err := c.ReadAt(t.Context(), half, 0); err != nil {
		t.Fatal(err)
	}
	before := c.Stats().Network
	got := make([]byte, len(data))
	if err := c.Copy(t.Context(), collect(got)); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("copy: %v, or other bytes than the image's", err)
	}
	after := c.Stats().Network
	// Read-ahead has brought more than was read.
	if came := after.Asked + after.Overheard - before.Asked - before.Overheard; came > uint64(len(data)-len(half)) {
		t.Errorf("%d bytes came to the copy, and %d were not there", came, len(data)-len(half))
	}
}

func TestCopyEndsWithTheErrorOfItsSink(t *testing.T) {
	n := loopback(t)
	m := makeImage(t, content(), 64<<10)
	serve(t, n, m)
	c := open(t, Config{Network: n, Descriptor: m.Descriptor()})
	full := errors.New("disk full")
	err := c.Copy(t.Context(), Sink{
		Write: func(int64, []byte) error { return full },
		Zero:  func(int64, int64) error { return nil },
	})
	if !errors.Is(err, full) {
		t.Errorf("Copy = %v, want the sink's error", err)
	}
}

func TestReadsWaitForAServerAndGoOn(t *testing.T) {
	data := content()
	n := loopback(t)
	m := makeImage(t, data, 64<<10)
	c := open(t, Config{Network: n, Descriptor: m.Descriptor()})
	got := make([]byte, 1000)
	result := make(chan error, 1)
	go func() { result <- c.ReadAt(context.Background(), got, 5000) }()
	serve(t, n, m)
	select {
	case err := <-result:
		if err != nil || !bytes.Equal(got, data[5000:6000]) {
			t.Errorf("read: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the read did not go on when a server came")
	}
}

func TestReadsGoOnWhenTheServerComesBack(t *testing.T) {
	data := content()
	n := loopback(t)
	m := makeImage(t, data, 64<<10)
	path := m.Path()
	stop := serve(t, n, m)
	c := open(t, Config{Network: n, Descriptor: m.Descriptor()})
	got := make([]byte, 100<<10)
	if err := c.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	stop()
	result := make(chan error, 1)
	go func() { result <- c.ReadAt(context.Background(), got, 2<<20) }()
	again, err := image.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, n, again)
	select {
	case err := <-result:
		if err != nil || !bytes.Equal(got, data[2<<20:2<<20+len(got)]) {
			t.Errorf("read: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the read did not go on when the server came back")
	}
}

func TestIOTimeoutTurnsWaitingIntoAnError(t *testing.T) {
	n := loopback(t)
	m := makeImage(t, content(), 64<<10)
	c := open(t, Config{Network: n, Descriptor: m.Descriptor(), IOTimeout: 50 * time.Millisecond})
	err := c.ReadAt(t.Context(), make([]byte, 1), 0)
	if !errors.Is(err, block.ErrTimeout) {
		t.Errorf("ReadAt = %v, want ErrTimeout", err)
	}
	serve(t, n, m)
	for range 100 {
		if err = c.ReadAt(t.Context(), make([]byte, 1), 0); err == nil {
			return
		}
	}
	t.Errorf("with a server: ReadAt = %v", err)
}

func TestReadsEndWithTheirContextAndWithTheClient(t *testing.T) {
	n := loopback(t)
	m := makeImage(t, content(), 64<<10)
	c := open(t, Config{Network: n, Descriptor: m.Descriptor()})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- c.ReadAt(ctx, make([]byte, 1), 0) }()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
	go func() { result <- c.ReadAt(context.Background(), make([]byte, 1), 0) }()
	c.Close()
	if err := <-result; !errors.Is(err, block.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// What one client asks for comes to all who listen: the other can read it when no server is left to ask.
func TestWhatIsOverheardNeedNotBeAskedFor(t *testing.T) {
	data := content()
	n := loopback(t)
	m := makeImage(t, data, 64<<10)
	stop := serve(t, n, m)
	first := open(t, Config{Network: n, Descriptor: m.Descriptor()})
	second := open(t, Config{Network: n, Descriptor: m.Descriptor(), IOTimeout: 30 * time.Second})
	buf := make([]byte, len(data))
	// One block lets the second know the server, and join the data group.
	if err := second.ReadAt(t.Context(), buf[:1], 0); err != nil {
		t.Fatal(err)
	}
	if err := first.ReadAt(t.Context(), buf, 0); err != nil {
		t.Fatal(err)
	}
	stop()
	clear(buf)
	if err := second.ReadAt(t.Context(), buf, 0); err != nil || !bytes.Equal(buf, data) {
		t.Fatalf("read what was overheard: %v", err)
	}
}

func TestAnAddedCacheTakesOverWhatIsHere(t *testing.T) {
	data := content()
	n := loopback(t)
	m := makeImage(t, data, 64<<10)
	stop := serve(t, n, m)
	c := open(t, Config{Network: n, Descriptor: m.Descriptor(), IOTimeout: 10 * time.Second})
	buf := make([]byte, len(data))
	if err := c.ReadAt(t.Context(), buf, 0); err != nil {
		t.Fatal(err)
	}
	stop()
	path := filepath.Join(t.TempDir(), "cache")
	file, err := cache.Open(path, 16<<20, 64<<10, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AddCache(file); err != nil {
		t.Fatal(err)
	}
	clear(buf)
	if err := c.ReadAt(t.Context(), buf, 0); err != nil || !bytes.Equal(buf, data) {
		t.Fatalf("read without a server from the added cache: %v", err)
	}
	c.Close()

	// And over a restart.
	if file, err = cache.Open(path, 0, 64<<10, quiet); err != nil {
		t.Fatal(err)
	}
	d := open(t, Config{Network: n, Descriptor: m.Descriptor(), Cache: file, IOTimeout: 10 * time.Second})
	clear(buf)
	if err := d.ReadAt(t.Context(), buf, 0); err != nil || !bytes.Equal(buf, data) {
		t.Fatalf("read without a server after a restart: %v", err)
	}
}

// The page that says which blocks are zero may come between a read's look into the tree and its wait.
func TestReadsMeetPagesThatArrive(t *testing.T) {
	data := content()
	n := loopback(t)
	m := makeImage(t, data, 4<<10)
	serve(t, n, m)
	const piece = 64 << 10
	for range 20 {
		c := open(t, Config{Network: n, Descriptor: m.Descriptor(), IOTimeout: time.Minute})
		var readers errgroup.Group
		for off := 0; off < len(data); off += piece {
			readers.Go(func() error {
				want := data[off:min(off+piece, len(data))]
				buf := make([]byte, len(want))
				if err := c.ReadAt(t.Context(), buf, int64(off)); err != nil {
					return err
				}
				if !bytes.Equal(buf, want) {
					return fmt.Errorf("other bytes at %d", off)
				}
				return nil
			})
		}
		if err := readers.Wait(); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

func TestAheadFindsSequentialReaders(t *testing.T) {
	var a ahead
	const size = 64 << 20
	if from, to := a.next(0, 4096, size); from != to {
		t.Errorf("a first read is read ahead of: [%d, %d)", from, to)
	}
	var reached int64
	for off := int64(4096); off < 8<<20; off += 4096 {
		from, to := a.next(off, 4096, size)
		if from == to {
			continue
		}
		if reached != 0 && from != reached {
			t.Fatalf("at %d: read-ahead starts at %d, it had reached %d", off, from, reached)
		}
		if to > off+4096+aheadMax {
			t.Fatalf("at %d: read-ahead goes to %d", off, to)
		}
		reached = to
	}
	if reached < 8<<20+aheadMax/2 {
		t.Errorf("after 8 MiB the read-ahead has reached %d", reached)
	}
	for i := range int64(100) {
		off := (i * 7919 * 65536) % size
		if from, to := a.next(off, 4096, size); from != to && from < 8<<20 {
			t.Errorf("a random read at %d is read ahead of: [%d, %d)", off, from, to)
		}
	}
}
