package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/udp"
)

// port gives every test a group of its own on the loopback interface.
var port atomic.Uint32

func config(t *testing.T) Config {
	t.Helper()
	p := 40000 + uint16(os.Getpid()%200)*100 + uint16(port.Add(1))
	group := netip.AddrPortFrom(netip.MustParseAddr("239.78.0.1"), p)
	ifaces, err := udp.Interfaces("lo", group.Addr())
	if err != nil {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatalf("multicast on lo: %v", err)
		}
		t.Skipf("multicast on lo: %v", err)
	}
	return Config{Group: group, Interfaces: ifaces, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func makeImage(t *testing.T, name string, seed byte) *image.Image {
	t.Helper()
	data := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := image.Create(t.Context(), path, image.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// run serves images until the test ends, and returns the server.
func run(t *testing.T, cfg Config, images ...*image.Image) *Server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context(), images); err != nil {
		s.Close()
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx, images); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s
}

// prepare is what a second server meets in the group.
func prepare(t *testing.T, cfg Config, images ...*image.Image) error {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.Prepare(t.Context(), images)
}

func TestAnIDThatAnotherServerHasIsRefused(t *testing.T) {
	cfg := config(t)
	cfg.ID = 7
	run(t, cfg, makeImage(t, "a.img", 1))
	err := prepare(t, cfg, makeImage(t, "b.img", 2))
	if !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "7") {
		t.Errorf("a second server 7: %v, want ErrTaken that names it", err)
	}
	cfg.ID = 8
	if err := prepare(t, cfg, makeImage(t, "b.img", 2)); err != nil {
		t.Errorf("a server 8: %v", err)
	}
}

func TestAFreeIDIsChosen(t *testing.T) {
	cfg := config(t)
	if s := run(t, cfg, makeImage(t, "a.img", 1)); s.ID() == 0 {
		t.Error("server has id 0")
	}
}

func TestOtherBytesUnderOneNameAreRefused(t *testing.T) {
	cfg := config(t)
	run(t, cfg, makeImage(t, "same.img", 1))
	if err := prepare(t, cfg, makeImage(t, "same.img", 2)); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "same") {
		t.Errorf("other bytes under the name: %v, want ErrTaken that names the image", err)
	}
	if err := prepare(t, cfg, makeImage(t, "same.img", 1)); err != nil {
		t.Errorf("a replica: %v", err)
	}
}

func TestAChangedFileIsWithdrawnAndOfferedAnew(t *testing.T) {
	cfg := config(t)
	m := makeImage(t, "disk.img", 1)
	renewed := make(chan *image.Image, 1)
	cfg.Rehash = func(ctx context.Context, path string) (*image.Image, error) {
		n, err := image.OpenOrCreate(ctx, path, image.CreateOptions{})
		if err == nil {
			renewed <- n
		}
		return n, err
	}
	s := run(t, cfg, m)
	f, err := os.OpenFile(m.Path(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("changed"), 1000)
	f.Close()
	// Whatever the clock's grain, the time is another.
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(m.Path(), later, later); err != nil {
		t.Fatal(err)
	}
	select {
	case n := <-renewed:
		if n.ID() == m.ID() || n.Descriptor().Revision != 2 {
			t.Errorf("offered anew: id %v revision %d", n.ID(), n.Descriptor().Revision)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the changed file was not hashed again")
	}
	if st := s.Status(); !st.Images[0].Withdrawn {
		t.Error("the old image is still offered")
	}
}

func TestDataGroupsStayInTheNeighbourhood(t *testing.T) {
	id := image.ID{0x12, 0x34, 0x56, 0x78}
	for _, c := range []struct{ discovery, want string }{
		{"239.0.0.1:10810", "239.0.18.52:10810"},
		{"239.0.18.52:99", "239.0.18.53:99"},
		{"224.0.0.99:10810", "224.0.0.99:10810"},
		{"[ff15::d4bd]:10810", "[ff15::1234:5678]:10810"},
		{"[ff15::1234:5678]:10810", "[ff15::1234:5679]:10810"},
		{"[ff02::1%eth0]:10810", "[ff02::1234:5678%eth0]:10810"},
	} {
		if got := dataGroup(netip.MustParseAddrPort(c.discovery), id); got.String() != c.want {
			t.Errorf("dataGroup(%s) = %v, want %s", c.discovery, got, c.want)
		}
	}
}
