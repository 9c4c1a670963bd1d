//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/internal/client"
	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/udp"
	"github.com/dnbd/dnbd/internal/wire"
)

// hostile is a host on the segment that lies. It knows what anybody can hear, and sends what it likes, also under the server's
// address.
type hostile struct {
	t      *testing.T
	server mcast.Found
	image  [32]byte
	blocks uint32
	own    *net.UDPConn // an address of its own
	raw    *net.IPConn  // writes whole IPv4 packets
	ears   []*udp.Conn  // of the two groups
	rand   *rand.Rand   // of the goroutine that sends
	jobs   sync.WaitGroup
	stop   context.CancelFunc

	mu      sync.Mutex                // guards what follows
	clients map[netip.AddrPort]uint64 // the nonce of its last HELLO
	data    wire.Data                 // the last heard
	from    netip.AddrPort            // where it came from
	symbol  int                       // bytes of its payload
	sent    int                       // packets
}

// attack starts to lie, on a host and about an image of the server that it finds. It sends packets each millisecond until
// the returned function is called, or the test ends.
func (r *rig) attack(host string, packets int) (h *hostile, end func()) {
	r.t.Helper()
	h = &hostile{t: r.t, clients: map[netip.AddrPort]uint64{}, rand: rand.New(rand.NewPCG(1, 2))}
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	end = func() {
		cancel()
		for _, e := range h.ears {
			e.Close()
		}
		h.jobs.Wait()
	}
	r.t.Cleanup(end)
	if err := r.lab.Do(host, h.open); err != nil {
		r.t.Fatalf("attack from %s: %v", host, err)
	}
	for _, e := range h.ears {
		h.jobs.Go(func() { h.listen(e) })
	}
	h.jobs.Go(func() { h.lie(ctx, packets) })
	return h, end
}

// open finds the server and opens the sockets.
func (h *hostile) open() error {
	group := netip.MustParseAddrPort("239.0.0.1:10810")
	ifaces, err := udp.Interfaces("eth0", group.Addr())
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d, err := client.Find(ctx, client.Network{Group: group, Interfaces: ifaces, Log: log}, wire.Hello{}, func(d client.Discovery) bool {
		return len(d.Found) > 0
	})
	if err != nil {
		return err
	}
	h.server, h.image = d.Found[0], d.Found[0].Descriptor.ID()
	g, err := h.server.Descriptor.Geometry()
	if err != nil {
		return err
	}
	h.blocks = g.Total()
	if h.own, err = net.ListenUDP("udp4", &net.UDPAddr{IP: ifaces[0].Addr.AsSlice()}); err != nil {
		return err
	}
	if h.raw, err = net.ListenIP("ip4:255", nil); err != nil { // IPPROTO_RAW
		return err
	}
	for _, g := range []netip.AddrPort{group, h.server.Group} {
		ear, err := udp.ListenGroup(g, ifaces, udp.Options{Log: log})
		if err != nil {
			return err
		}
		h.ears = append(h.ears, ear)
	}
	return nil
}

// listen learns from what is said to a group.
func (h *hostile) listen(ear *udp.Conn) {
	m := udp.NewMessage()
	for {
		if _, err := ear.Read(m); err != nil {
			return
		}
		for _, b := range m.Segments(nil) {
			h.mu.Lock()
			switch t, _ := wire.TypeOf(b); t {
			case wire.TypeHello:
				if hello, err := wire.ParseHello(b); err == nil {
					h.clients[m.From] = hello.Nonce
				}
			case wire.TypeData:
				var d wire.Data
				if p, err := wire.ParseData(b, &d); err == nil && d.K > 0 && m.From.Addr() == h.server.Addr.Addr() {
					h.data, h.from, h.symbol = d, m.From, max(h.symbol, len(p))
				}
			}
			h.mu.Unlock()
		}
	}
}

// lie sends until ctx ends.
func (h *hostile) lie(ctx context.Context, packets int) {
	defer h.own.Close()
	defer h.raw.Close()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	kinds := []func(netip.AddrPort, uint64){h.forgeData, h.forgeWelcome, h.forgeAnnounce, h.forgeAnswer, h.garbage}
	for n := 0; ; {
		select {
		case <-ctx.Done():
			h.t.Logf("the hostile host sent %d packets", h.sent)
			return
		case <-tick.C:
		}
		for range packets {
			h.mu.Lock()
			for to, nonce := range h.clients { // any of them
				kinds[n%len(kinds)](to, nonce)
				break
			}
			h.mu.Unlock()
			n++
		}
	}
}

// TestNoReaderSeesAWrongByteWhateverAHostileHostSends attaches and copies by id, which cannot be forged; a name can, and is then
// an error.
func TestNoReaderSeesAWrongByteWhateverAHostileHostSends(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 3, ServerRate: 100e6})
	image := film(t, 16*mib)
	r.serve("s1", "--id", "1", image)
	h, end := r.attack("c3", 4)
	id := "dnbd://239.0.0.1/" + h.server.Descriptor.ID().String()
	a := r.attach("c1", id)
	c := r.dnbd("c2", "copy", id, r.path("c2"))
	read := inBackground(func() error { return compare(a.device, image) })
	ctx, cancel := context.WithTimeout(t.Context(), patience/2)
	defer cancel()
	for name, done := range map[string]<-chan struct{}{"copy": c.done, "read": read.done} {
		select {
		case <-done:
			t.Logf("the %s ended under attack", name)
		case <-ctx.Done():
			t.Logf("the %s did not end under attack", name)
		}
	}
	end()
	c.succeed()
	if err := compare(r.path("c2"), image); err != nil {
		t.Error(err)
	}
	if err := read.wait(); err != nil {
		t.Error(err)
	}
	var m machine
	if err := json.Unmarshal([]byte(r.dnbd("c1", "status", "--json", a.device).succeed()), &m); err != nil {
		t.Fatal(err)
	}
	refused := m.Attachments[0].Attachment.Traffic.Refused
	t.Logf("the reader refused %d blocks", *refused)
	if *refused == 0 {
		t.Error("the reader has refused nothing: the attack did not reach it")
	}
}
