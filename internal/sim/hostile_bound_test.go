package sim

import (
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// oneRoundTrip is what a forged datagram may cost a reader: a round trip as the client estimates it, at least 20 ms, and the 20 ms for
// which a client waits longer than it must.
const oneRoundTrip = 40 * time.Millisecond

// forgery is one datagram that a host on the segment makes up. It knows all that groups hear, the microsecond at which the client began,
// and which block is read next; it hears nothing that is sent to others alone.
type forgery struct {
	name string
	send func(m *mallory, c *Client, block uint32)
}

// forgeries are of every type, each in those of its forms that could do harm. They are sent in the name of the first server.
var forgeries = func() []forgery {
	first := func(m *mallory) (*Server, wire.Data) {
		s := m.room.servers[0]
		d, heard := m.last[1]
		if !heard {
			d = wire.Data{Server: 1, Handle: 1, Epoch: m.epoch, K: 46}
		}
		return s, d
	}
	data := func(name string, change func(m *mallory, d *wire.Data, block uint32)) forgery {
		return forgery{"DATA " + name, func(m *mallory, c *Client, block uint32) {
			_, d := first(m)
			d.Block = block
			change(m, &d, block)
			m.forge(d, newSymbol(m.room.image, &d))
		}}
	}
	far := func(by uint64) func(m *mallory, d *wire.Data, block uint32) {
		return func(m *mallory, d *wire.Data, _ uint32) {
			d.Seq, d.Index, d.Left, d.Backlog = d.Seq+by, uint16(m.room.Rand.IntN(int(d.K))), 255, 1<<16-1
		}
	}
	announce := func(name string, change func(m *mallory, a *wire.Announce)) forgery {
		return forgery{"ANNOUNCE " + name, func(m *mallory, c *Client, _ uint32) {
			s, d := first(m)
			a := wire.Announce{
				Server: 1, Epoch: d.Epoch, Images: []wire.AnnouncedImage{{Handle: 1, Tag: tagOf(m.room.image.ID)}},
			}
			change(m, &a)
			m.SendAs(s.Addr, Group, a.Append(nil))
		}}
	}
	welcome := func(name string, change func(m *mallory, w *wire.Welcome)) forgery {
		return forgery{"WELCOME " + name, func(m *mallory, c *Client, _ uint32) {
			s, d := first(m)
			w := wire.Welcome{
				Server: 1, Epoch: d.Epoch, Cookie: m.room.Rand.Uint64(), Parts: 1, Offers: []wire.Offer{m.room.image.export().Offer},
			}
			if len(m.nonces) > 0 {
				w.Nonce = m.nonces[0]
			}
			change(m, &w)
			m.SendAs(s.Addr, c.Addr, w.Append(nil))
		}}
	}
	// stamp is that of a WANT of this moment, as far as can be known.
	stamp := func(m *mallory) uint32 {
		return uint32(m.room.elapsed().Microseconds()) - m.room.Rand.Uint32N(3)*uint32(lan.Microseconds())
	}
	all := []forgery{
		data("of the block, one symbol of noise", func(m *mallory, d *wire.Data, _ uint32) { d.Index = uint16(m.room.Rand.IntN(int(d.K))) }),
		data("that is parity", func(m *mallory, d *wire.Data, _ uint32) { d.Index = d.K + uint16(m.room.Rand.IntN(40)) }),
		data("cut in another way", func(m *mallory, d *wire.Data, _ uint32) { d.K = 64 }),
		data("of a thousand numbers on", far(1000)),
		data("of sixty thousand numbers on", far(60_000)),
		data("of a billion numbers on", far(1<<30)),
		data("of all numbers on", func(_ *mallory, d *wire.Data, _ uint32) { d.Seq, d.Left = wire.MaxSeq, 255 }),
		{"DATA tail mark", func(m *mallory, _ *Client, _ uint32) {
			_, d := first(m)
			m.forge(wire.Data{Server: 1, Handle: 1, Epoch: d.Epoch, Seq: d.Seq + m.room.Rand.Uint64N(1<<18)}, 0)
		}},
		announce("that it leaves", func(_ *mallory, a *wire.Announce) { a.Leaving = true }),
		announce("that the image is withdrawn", func(_ *mallory, a *wire.Announce) { a.Images[0].State = wire.ImageWithdrawn }),
		announce("of a crowd and a long queue", func(_ *mallory, a *wire.Announce) { a.Clients, a.Backlog = 1<<16-1, 1<<32-1 }),
		announce("of another start", func(_ *mallory, a *wire.Announce) { a.Epoch++ }),
		announce("of nothing", func(_ *mallory, a *wire.Announce) { a.Images = nil }),
		welcome("with offers", func(*mallory, *wire.Welcome) {}),
		welcome("of another start", func(_ *mallory, w *wire.Welcome) { w.Epoch++ }),
		welcome("of another server", func(_ *mallory, w *wire.Welcome) { w.Server = 9 }),
		welcome("without offers", func(_ *mallory, w *wire.Welcome) { w.Parts, w.Offers = 0, nil }),
		{"ACK that puts off", func(m *mallory, c *Client, _ uint32) {
			s, d := first(m)
			a := wire.Ack{Server: 1, Handle: 1, Epoch: d.Epoch, Time: stamp(m), Horizon: wire.MaxSeq, Backlog: 1<<32 - 1, Queued: 9}
			m.SendAs(s.Addr, c.Addr, a.Append(nil))
		}},
		{"ACK of another stream", func(m *mallory, c *Client, _ uint32) {
			s, d := first(m)
			a := wire.Ack{Server: 1, Handle: 1, Epoch: d.Epoch, Time: stamp(m)}
			m.SendAs(s.Addr, c.Addr, a.Append(nil))
		}},
		{"WANT in the client's name", func(m *mallory, c *Client, block uint32) {
			s, d := first(m)
			w := wire.Want{
				Server: 1, Handle: 1, Epoch: d.Epoch, Cookie: m.room.Rand.Uint64(), Time: stamp(m), Joined: true, Seen: wire.MaxSeq,
				Ranges: []wire.Range{{Block: block, Count: 1}},
			}
			m.SendAs(c.Addr, s.Addr, w.Append(nil))
		}},
		{"HELLO in the client's name", func(m *mallory, c *Client, _ uint32) {
			h := wire.Hello{Nonce: m.room.Rand.Uint64(), Want: wire.HelloID, ID: m.room.image.ID}
			m.SendAs(c.Addr, m.room.servers[0].Addr, h.Append(nil))
		}},
	}
	for reason := wire.DenyCookie; reason <= wire.DenyBlock; reason++ {
		all = append(all, forgery{"DENY " + reason.String(), func(m *mallory, c *Client, _ uint32) {
			s, d := first(m)
			deny := wire.Deny{Server: 1, Handle: 1, Epoch: d.Epoch, Time: stamp(m), Reason: reason, Cookie: m.room.Rand.Uint64()}
			m.SendAs(s.Addr, c.Addr, deny.Append(nil))
		}})
	}
	return all
}()

// TestAForgedDatagramCostsAReaderARoundTripAtMost reads block after block while some forged datagrams are sent for each, at random
// moments before it is asked for and while it comes.
func TestAForgedDatagramCostsAReaderARoundTripAtMost(t *testing.T) {
	// run returns how long the first block took, and the longest of the others.
	run := func(t *testing.T, seed uint64, servers, packets int, f *forgery) (first, longest time.Duration) {
		r := newRoom(t, seed, 2<<20, 64<<10)
		for range servers {
			r.serve()
		}
		m := r.mallory()
		c := r.join(Link{})
		attack := func(block uint32) {
			for range packets {
				if f != nil {
					r.After(time.Duration(r.Rand.Int64N(int64(10*time.Millisecond))), func() { f.send(m, c, block) })
				}
			}
		}
		attack(0)
		d := r.read(c, 0, 5*time.Millisecond)
		got := c.OnBlock
		c.OnBlock = func(block uint32) {
			if block == d.next {
				took := r.Now().Sub(d.asked)
				if block == 0 {
					first = took
				} else {
					longest = max(longest, took)
				}
				attack(block + 1)
			}
			got(block)
		}
		r.until(time.Duration(d.end)*time.Duration(packets+1)*oneRoundTrip+time.Second, "the reader has read all", d.done)
		return first, longest
	}
	seeds(t, 3, func(t *testing.T, seed uint64) {
		for _, c := range []struct{ servers, packets int }{{1, 1}, {1, 10}, {2, 1}} {
			first, longest := run(t, seed, c.servers, 0, nil)
			for _, f := range forgeries {
				firstForged, forged := run(t, seed, c.servers, c.packets, &f)
				more := time.Duration(c.packets) * oneRoundTrip
				if forged > longest+more || firstForged > first+more {
					t.Errorf("%s, %d servers, %d for each read: the longest took %v, and %v without them; the first %v and %v", f.name, c.servers,
						c.packets, forged, longest, firstForged, first)
				}
			}
		}
	})
}

// A server that has died is found out although somebody speaks in its name.
func TestForgedDatagramsDoNotHideThatAServerIsGone(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 16<<20, 64<<10)
		dead := r.serve()
		r.serve()
		m := r.mallory()
		d := r.read(r.join(Link{}), 0, 5*time.Millisecond)
		r.until(5*time.Second, "a quarter is read", func() bool { return d.next >= d.end/4 })
		dead.Kill()
		m.repeat(2500*time.Microsecond, func() {
			data := m.last[1]
			data.Seq, data.Block, data.Index = data.Seq+1, d.next, 0
			m.last[1] = data
			m.forge(data, newSymbol(r.image, &data))
			a := wire.Announce{
				Server: 1, Epoch: m.epoch, Images: []wire.AnnouncedImage{{Handle: 1, Tag: tagOf(r.image.ID)}},
			}
			m.SendAs(dead.Addr, Group, a.Append(nil))
		})
		r.until(10*time.Second, "the reader has read all", d.done)
		t.Logf("the longest read took %v", d.longest)
		if limit := 250 * time.Millisecond; d.longest > limit {
			t.Errorf("block %d took %v, more than %v", d.at, d.longest, limit)
		}
	})
}
