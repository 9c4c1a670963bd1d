package client

import (
	"bytes"
	"context"
	"math/bits"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/udp"
	"github.com/dnbd/dnbd/internal/wire"
	"github.com/dnbd/dnbd/nbd"
)

// serveMute is a server none of whose group data arrives: it offers the image, grants what is asked for, and sends nothing. Its NBD
// port is the one given.
func serveMute(t *testing.T, n Network, m *image.Image, id, port uint16) {
	t.Helper()
	serveAnswers(t, n, m, id, port, n.Group, func(b []byte) []byte { return b })
}

// serveAnswers is serveMute with another data group, whose answers are changed on their way.
func serveAnswers(t *testing.T, n Network, m *image.Image, id, port uint16, data netip.AddrPort, change func(b []byte) []byte) {
	t.Helper()
	control, err := udp.ListenUnicast(n.Interfaces[0], 0, udp.OptionsFromEnv())
	if err != nil {
		t.Fatal(err)
	}
	group, err := udp.ListenGroup(n.Group, n.Interfaces, udp.OptionsFromEnv())
	if err != nil {
		control.Close()
		t.Fatal(err)
	}
	d, g := m.Descriptor(), m.Geometry()
	s := mcast.NewSender(mcast.SenderConfig{
		Server: id, Epoch: uint32(id), Group: n.Group, NBD: port, MaxPayload: 1400, Rate: 1e9, Coder: mcast.NewCoder(),
	})
	s.Add(mcast.Export{
		ID: m.ID(), Blocks: g.Total(), Length: g.Len,
		Offer: wire.Offer{
			Handle: 1, Algorithm: image.AlgorithmBLAKE3, BlockLog: uint8(bits.TrailingZeros(uint(d.BlockSize))),
			Size: uint64(d.Size), Revision: d.Revision, Created: d.Created.Unix(), Root: d.Root, Name: d.Name, Group: data,
		},
	})
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, conn := range []*udp.Conn{control, group} {
		wg.Go(func() {
			msg := udp.NewMessage()
			for {
				if _, err := conn.Read(msg); err != nil {
					return
				}
				mu.Lock()
				for _, b := range msg.Segments(nil) {
					s.Input(time.Now(), msg.From, b)
				}
				for _, p := range s.Packets() {
					if err := control.Send(p.To, change(p.Data)); err != nil {
						t.Errorf("answer: %v", err)
					}
				}
				mu.Unlock()
			}
		})
	}
	t.Cleanup(func() {
		control.Close()
		group.Close()
		wg.Wait()
	})
}

// exportBlocks serves the image's blocks over NBD on the loopback interface and returns the port.
func exportBlocks(t *testing.T, m *image.Image, device nbd.Device) uint16 {
	t.Helper()
	s, err := nbd.NewServer(nbd.ServerConfig{Exports: []nbd.Export{{Name: m.ID().ExportName(), Device: device, Hidden: true}}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// spoiled is a device with wrong bytes in [from, to).
type spoiled struct {
	nbd.Device
	from, to int64
}

func (s spoiled) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := s.Device.ReadAt(ctx, p, off); err != nil {
		return err
	}
	for i := range p {
		if at := off + int64(i); at >= s.from && at < s.to {
			p[i] ^= 1
		}
	}
	return nil
}

// eventually waits until what it asks is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(40 * time.Second); !so(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it never came to pass: %s", what)
		}
	}
}

// collect returns a Sink that fills a buffer.
func collect(got []byte) Sink {
	return Sink{
		Write: func(off int64, p []byte) error { copy(got[off:], p); return nil },
		Zero:  func(off, n int64) error { clear(got[off : off+n]); return nil },
	}
}

func TestWithoutGroupDataBlocksAreReadOverNBD(t *testing.T) {
	for _, blockSize := range []int{4 << 10, 64 << 10, 1 << 20} {
		data := content()
		n := loopback(t)
		m := makeImage(t, data, blockSize)
		defer m.Close()
		serveMute(t, n, m, 77, exportBlocks(t, m, m.Blocks()))
		c := open(t, Config{Network: n, Descriptor: m.Descriptor()})
		got := make([]byte, len(data))
		if err := c.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("blocks of %d: read: %v, or other bytes", blockSize, err)
		}
		if s := c.Stats(); !s.OverNBD || s.Fetched == 0 || s.Waiting != 0 {
			t.Errorf("blocks of %d: over NBD %v, %d bytes fetched, %d blocks waited for", blockSize, s.OverNBD, s.Fetched, s.Waiting)
		}
		d := open(t, Config{Network: n, Descriptor: m.Descriptor()})
		clear(got)
		if err := d.Copy(t.Context(), collect(got)); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("blocks of %d: copy: %v, or other bytes", blockSize, err)
		}
	}
}

func TestGroupDataThatArrivesAgainEndsReadingOverNBD(t *testing.T) {
	data := content()
	n := loopback(t)
	m := makeImage(t, data, 64<<10)
	again, err := image.Open(m.Path())
	if err != nil {
		t.Fatal(err)
	}
	serveMute(t, n, m, 77, exportBlocks(t, m, m.Blocks()))
	defer m.Close()
	c := open(t, Config{Network: n, Descriptor: m.Descriptor()})
	got := make([]byte, 64<<10)
	if err := c.ReadAt(t.Context(), got, 0); err != nil || !c.Stats().OverNBD {
		t.Fatalf("read over NBD: %v, %+v", err, c.Stats())
	}
	serve(t, n, again)
	eventually(t, "the new server is known", func() bool { return len(c.Stats().Replicas) == 2 })
	// It asks as long as there is something to ask for. Half of the blocks are asked of the server that is still mute.
	other := open(t, Config{Network: n, Descriptor: m.Descriptor(), IOTimeout: time.Minute})
	clear(got)
	if err := other.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, data[:len(got)]) {
		t.Fatalf("another client's read: %v", err)
	}
	eventually(t, "the group is used again", func() bool { return c.Stats().Network.Symbols > 0 && !c.Stats().OverNBD })
	clear(got)
	if err := c.ReadAt(t.Context(), got, 2<<20); err != nil || !bytes.Equal(got, data[2<<20:2<<20+len(got)]) {
		t.Errorf("read: %v, or other bytes", err)
	}
}

func TestAGroupThatIsTooFastIsLeftForAWhile(t *testing.T) {
	data := content()
	n := loopback(t)
	m := makeImage(t, data, 64<<10)
	defer m.Close()
	group := netip.AddrPortFrom(netip.MustParseAddr("239.77.0.2"), n.Group.Port())
	var fast atomic.Bool
	fast.Store(true)
	serveAnswers(t, n, m, 77, exportBlocks(t, m, m.Blocks()), group, func(b []byte) []byte {
		a, err := wire.ParseAck(b)
		if err != nil {
			return b
		}
		a.Slow = fast.Load()
		return a.Append(nil)
	})
	c := open(t, Config{Network: n, Descriptor: m.Descriptor()})
	hears := func() bool {
		c.sockets.mu.Lock()
		defer c.sockets.mu.Unlock()
		return c.sockets.groups[group] != nil
	}
	eventually(t, "the data group is joined", hears)
	got := make([]byte, len(data))
	if err := c.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read: %v, or other bytes", err)
	}
	if s := c.Stats(); !s.Slow || !s.OverNBD {
		t.Errorf("slow %v, over NBD %v", s.Slow, s.OverNBD)
	}
	eventually(t, "the data group is left", func() bool { return !hears() })
	fast.Store(false)
	eventually(t, "the data group is joined again", func() bool { return hears() && !c.Stats().Slow })
}

func TestWrongBytesOverNBDAreRefused(t *testing.T) {
	data := content()
	n := loopback(t)
	m := makeImage(t, data, 64<<10)
	again, err := image.Open(m.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	// The tree is right, the data from the second block on is not.
	device := spoiled{m.Blocks(), 64 << 10, m.Geometry().Offset(m.Geometry().Data())}
	serveMute(t, n, m, 77, exportBlocks(t, m, device))
	c := open(t, Config{Network: n, Descriptor: m.Descriptor()})
	got := make([]byte, 128<<10)
	result := make(chan error, 1)
	go func() { result <- c.ReadAt(context.Background(), got, 0) }()
	eventually(t, "the wrong block is refused", func() bool { return c.Stats().Refused > 0 })
	eventually(t, "that server is left alone", func() bool { return !c.Stats().OverNBD })
	select {
	case err := <-result:
		t.Fatalf("the read ended, with %v", err)
	default:
	}
	serve(t, n, again)
	if err := <-result; err != nil || !bytes.Equal(got, data[:len(got)]) {
		t.Errorf("read when there is a good server: %v, or other bytes", err)
	}
}

func TestAServerThatHangsOverNBDDoesNotHoldTheOther(t *testing.T) {
	data := content()
	n := loopback(t)
	m := makeImage(t, data, 64<<10)
	defer m.Close()
	// It takes connections and says nothing.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	serveMute(t, n, m, 78, uint16(l.Addr().(*net.TCPAddr).Port))
	serveMute(t, n, m, 77, exportBlocks(t, m, m.Blocks()))
	c := open(t, Config{Network: n, Descriptor: m.Descriptor(), IOTimeout: time.Minute})
	got := make([]byte, len(data))
	if err := c.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read: %v, or other bytes", err)
	}
}
