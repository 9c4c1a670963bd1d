package sim

import (
	"net/netip"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// mallory is a host on the segment that hears the groups and sends what it likes in anybody's name.
type mallory struct {
	*Node
	room   *room
	nonces []uint64             // of the HELLOs heard
	last   map[uint16]wire.Data // newest DATA heard of each server
	onData func(d *wire.Data)   // what it does at each DATA
	addrs  map[uint16]*Server   // by id
	group  netip.AddrPort       // of data
	epoch  uint32               // of the first server, as it was announced
}

func (r *room) mallory() *mallory {
	m := &mallory{room: r, last: map[uint16]wire.Data{}, addrs: map[uint16]*Server{}, group: r.image.export().Offer.Group}
	for i, s := range r.servers {
		m.addrs[uint16(i+1)] = s
	}
	m.Node = r.NewNode(Link{}, m.hear)
	m.Join(Group)
	m.Join(m.group)
	return m
}

func (m *mallory) hear(_ netip.AddrPort, b []byte) {
	switch t, _ := wire.TypeOf(b); t {
	case wire.TypeHello:
		if h, err := wire.ParseHello(b); err == nil {
			m.nonces = append(m.nonces, h.Nonce)
		}
	case wire.TypeAnnounce:
		if a, err := wire.ParseAnnounce(b); err == nil && a.Server == 1 {
			m.epoch = a.Epoch
		}
	case wire.TypeData:
		var d wire.Data
		if _, err := wire.ParseData(b, &d); err == nil && d.K > 0 {
			m.last[d.Server] = d
			if m.onData != nil {
				m.onData(&d)
			}
		}
	}
}

// noise is n random bytes.
func (m *mallory) noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.room.Rand.Uint32())
	}
	return b
}

// forge sends a symbol in its server's name.
func (m *mallory) forge(d wire.Data, size int) {
	m.SendAs(m.addrs[d.Server].Addr, m.group, append(d.AppendHeader(nil), m.noise(size)...))
}

// repeat acts at random intervals of that length on average, until the end.
func (m *mallory) repeat(mean time.Duration, act func()) {
	m.room.After(time.Duration(m.room.Rand.Int64N(int64(2*mean))), func() {
		act()
		m.repeat(mean, act)
	})
}

// heard calls f with the newest DATA heard of each server.
func (m *mallory) heard(f func(d wire.Data)) {
	for id := range uint16(len(m.room.servers)) {
		if d, ok := m.last[id+1]; ok {
			f(d)
		}
	}
}

func TestNoForgeryIsReadOrStopsAReader(t *testing.T) {
	for _, attack := range []struct {
		name  string
		limit time.Duration
		start func(m *mallory)
	}{
		{"symbols that come before the true ones", 5 * time.Second, func(m *mallory) {
			m.onData = func(d *wire.Data) {
				if d.Left > 0 && m.room.Rand.IntN(200) == 0 {
					next := *d
					next.Seq, next.Index, next.Left = d.Seq+1, d.Index+1, d.Left-1
					m.forge(next, newSymbol(m.room.image, d))
				}
			}
		}},
		{"numbers far ahead", 5 * time.Second, func(m *mallory) {
			m.repeat(5*time.Millisecond, func() {
				m.heard(func(d wire.Data) {
					d.Seq += 1 << (10 + m.room.Rand.IntN(37))
					m.forge(d, newSymbol(m.room.image, &d))
				})
			})
		}},
		{"symbols of any block", 5 * time.Second, func(m *mallory) {
			m.repeat(time.Millisecond, func() {
				m.heard(func(d wire.Data) {
					d.Block = m.room.Rand.Uint32N(m.room.image.Total() + 5)
					d.Index, d.Left, d.Class = uint16(m.room.Rand.IntN(256)), uint8(m.room.Rand.IntN(256)), wire.Bulk
					m.forge(d, newSymbol(m.room.image, &d))
				})
			})
		}},
		{"blocks cut in another way", 5 * time.Second, func(m *mallory) {
			m.repeat(5*time.Millisecond, func() {
				m.heard(func(d wire.Data) {
					d.K = uint16(1 + m.room.Rand.IntN(2000))
					m.forge(d, 1+m.room.Rand.IntN(1400))
				})
			})
		}},
		{"tail marks", 5 * time.Second, func(m *mallory) {
			m.repeat(5*time.Millisecond, func() {
				m.heard(func(d wire.Data) {
					m.forge(wire.Data{Server: d.Server, Handle: d.Handle, Epoch: d.Epoch, Seq: d.Seq + m.room.Rand.Uint64N(1<<20)}, 0)
				})
			})
		}},
		{"servers that leave", 5 * time.Second, func(m *mallory) {
			m.repeat(20*time.Millisecond, func() {
				m.heard(func(d wire.Data) {
					a := wire.Announce{Server: d.Server, Epoch: d.Epoch, Leaving: true}
					m.SendAs(m.addrs[d.Server].Addr, Group, a.Append(nil))
				})
			})
		}},
		{"an image that is withdrawn", 5 * time.Second, func(m *mallory) {
			m.repeat(100*time.Millisecond, func() {
				m.heard(func(d wire.Data) {
					a := wire.Announce{
						Server: d.Server, Epoch: d.Epoch,
						Images: []wire.AnnouncedImage{{Handle: 1, State: wire.ImageWithdrawn, Tag: tagOf(m.room.image.ID)}},
					}
					m.SendAs(m.addrs[d.Server].Addr, Group, a.Append(nil))
				})
			})
		}},
		{"ANNOUNCEs of servers that are not", 5 * time.Second, func(m *mallory) {
			m.repeat(time.Millisecond, func() {
				a := wire.Announce{
					Server: uint16(m.room.Rand.Uint32()), Epoch: m.room.Rand.Uint32(), Backlog: 1 << 31, Clients: 65535, Rate: 1 << 60,
					Images: []wire.AnnouncedImage{{Handle: 1, Tag: tagOf(m.room.image.ID)}},
				}
				from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.noise(4))), 10810)
				m.SendAs(from, Group, a.Append(nil))
			})
		}},
		{"WELCOMEs of servers that are not", 5 * time.Second, func(m *mallory) {
			m.repeat(20*time.Millisecond, func() { m.welcome(netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.noise(4))), 10810)) })
		}},
		{"WELCOMEs in the servers' names", 5 * time.Second, func(m *mallory) {
			m.repeat(20*time.Millisecond, func() {
				for _, s := range m.room.servers {
					m.welcome(s.Addr)
				}
			})
		}},
		{"DENYs and ACKs", 5 * time.Second, func(m *mallory) {
			m.repeat(time.Millisecond, func() {
				m.heard(func(d wire.Data) {
					stamp := uint32(m.room.elapsed().Microseconds()) - m.room.Rand.Uint32N(200)
					deny := wire.Deny{Server: d.Server, Handle: 1, Epoch: d.Epoch, Time: stamp, Reason: wire.Reason(m.room.Rand.IntN(6))}
					ack := wire.Ack{Server: d.Server, Handle: 1, Epoch: d.Epoch, Time: stamp, Horizon: wire.MaxSeq, Backlog: 1 << 31, Queued: 9}
					for _, c := range m.room.clients {
						m.SendAs(m.addrs[d.Server].Addr, c.Addr, deny.Append(nil))
						m.SendAs(m.addrs[d.Server].Addr, c.Addr, ack.Append(nil))
					}
				})
			})
		}},
		{"garbage", 5 * time.Second, func(m *mallory) {
			m.repeat(time.Millisecond, func() {
				b := m.noise(m.room.Rand.IntN(1500))
				if len(b) > 4 && m.room.Rand.IntN(2) == 0 {
					copy(b, []byte{0x44, 0x4e, 1, byte(m.room.Rand.IntN(9))})
				}
				to := []netip.AddrPort{Group, m.group, m.room.clients[0].Addr, m.room.servers[0].Addr}[m.room.Rand.IntN(4)]
				m.SendAs(m.room.servers[0].Addr, to, b)
			})
		}},
	} {
		t.Run(attack.name, func(t *testing.T) {
			seeds(t, 3, func(t *testing.T, seed uint64) {
				r := newRoom(t, seed, 8<<20, 64<<10)
				r.serve()
				r.serve()
				m := r.mallory()
				d := r.read(r.join(Link{}), 8, 0)
				r.copy(3, Link{Loss: 0.01})
				attack.start(m)
				r.until(attack.limit, "the reader has read all", d.done)
				r.until(attack.limit, "every client has the image", func() bool {
					for _, c := range r.clients {
						if c.Left > 0 {
							return false
						}
					}
					return true
				})
				wrong, wants := 0, uint64(0)
				for _, c := range r.clients {
					wrong += c.Wrong
					wants += c.Receiver.Stats().Wants
				}
				if r.sent() > 4 {
					t.Errorf("sent %.3f images", r.sent())
				}
				t.Logf("longest read %v, all in %v, %.3f images sent; %d wrong blocks refused; %d WANTs", d.longest, r.elapsed(), r.sent(), wrong, wants)
			})
		})
	}
}

// welcome offers the image, at an address where no server is or in a server's name, to every client.
func (m *mallory) welcome(from netip.AddrPort) {
	e := m.room.image.export()
	for i, c := range m.room.clients {
		if i < len(m.nonces) {
			w := wire.Welcome{
				Server: uint16(m.room.Rand.Uint32()), Epoch: m.room.Rand.Uint32(), Nonce: m.nonces[m.room.Rand.IntN(len(m.nonces))],
				Cookie: m.room.Rand.Uint64(), Parts: 1, Offers: []wire.Offer{e.Offer},
			}
			m.SendAs(from, c.Addr, w.Append(nil))
		}
	}
}

// newSymbol is the size of a data symbol that is not its block's last.
func newSymbol(i *Image, d *wire.Data) int {
	return (i.Len(d.Block%i.Total()) + int(d.K) - 1) / int(d.K)
}

// tagOf is how ANNOUNCEs name an image.
func tagOf(id [32]byte) (tag uint64) {
	for _, b := range id[:8] {
		tag = tag<<8 | uint64(b)
	}
	return tag
}
