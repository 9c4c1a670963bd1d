package sim

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// seeker reads blocks in an order of its own, several at a time, from its cache or the network.
type seeker struct {
	*Client
	order []uint32
	next  int
	depth int
	open  map[uint32]bool
	asked map[uint32]bool // blocks that it has asked for
	ended time.Time
}

// seek starts a seeker at a client.
func (r *room) seek(c *Client, order []uint32, depth int) *seeker {
	s := &seeker{Client: c, order: order, depth: depth, open: map[uint32]bool{}, asked: map[uint32]bool{}}
	c.OnBlock = func(block uint32) {
		if s.open[block] {
			delete(s.open, block)
			r.After(0, s.ask)
		}
	}
	r.After(0, s.ask)
	return s
}

func (s *seeker) ask() {
	for s.next < len(s.order) && len(s.open) < s.depth {
		block := s.order[s.next]
		s.next++
		if s.Have[block] {
			if !s.asked[block] {
				s.Receiver.Used(block)
			}
			continue
		}
		s.open[block], s.asked[block] = true, true
		s.Read(block, wire.Demand)
	}
	if s.next == len(s.order) && len(s.open) == 0 && s.ended.IsZero() {
		s.ended = s.world.now
	}
}

// shuffled is the blocks from first on in a random order.
func shuffled(rng *rand.Rand, first, n uint32) []uint32 {
	order := make([]uint32, n)
	for i, at := range rng.Perm(int(n)) {
		order[i] = first + uint32(at)
	}
	return order
}

// apartRoom is a room of clients each behind a port of a quarter of the server's rate.
func apartRoom(t *testing.T, seed uint64, clients int) (*room, *Server) {
	r := newRoom(t, seed, 256<<20, 64<<10)
	s := r.serve()
	for range clients {
		r.join(Link{In: port / 4, Queue: 256 << 10}).ReadFrom(s)
	}
	for _, c := range r.clients {
		r.until(10*time.Second, "a client knows the server", func() bool { return len(c.Receiver.Replicas(r.Now())) > 0 })
	}
	return r, s
}

func (r *room) ended(limit time.Duration, seekers []*seeker) {
	r.t.Helper()
	r.until(limit, "every reader is done", func() bool {
		for _, s := range seekers {
			if s.ended.IsZero() {
				return false
			}
		}
		return true
	})
}

func TestReadsThatNobodySharesLeaveTheGroup(t *testing.T) {
	seeds(t, 2, func(t *testing.T, seed uint64) {
		const clients, part = 8, 500
		r, server := apartRoom(t, seed, clients)
		began := r.Now()
		var seekers []*seeker
		for i, c := range r.clients {
			seekers = append(seekers, r.seek(c, shuffled(r.Rand, uint32(i*part), part), 8))
		}
		r.ended(time.Minute, seekers)
		took := r.Now().Sub(began)
		// What the server's port takes by unicast: all clients' parts.
		bytes := float64(clients*part*64<<10) * (unicastPiece + 5 + frame) / unicastPiece
		bound := time.Duration(bytes * 8 / port * float64(time.Second))
		fetched := 0
		for _, s := range seekers {
			fetched += s.Fetched
		}
		t.Logf("%v, %.2f of the rate by unicast; %d of %d blocks by unicast; %+v", took, float64(bound)/float64(took), fetched, clients*part,
			server.Sender.Stats())
		if fetched < clients*part*3/4 {
			t.Errorf("%d of %d blocks were read by unicast, want most", fetched, clients*part)
		}
	})
}

func TestReadsThatAreSharedStayInTheGroup(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		const blocks = 1000
		r, server := apartRoom(t, seed, 8)
		order := shuffled(r.Rand, 0, blocks)
		var seekers []*seeker
		for i, c := range r.clients {
			// They boot one after the other, a tenth of a second apart.
			r.wait(time.Duration(i) * 100 * time.Millisecond)
			seekers = append(seekers, r.seek(c, order, 2))
		}
		r.ended(time.Minute, seekers)
		sent := float64(server.SentBytes) / (blocks * (64 << 10))
		fetched := 0
		for _, s := range seekers {
			fetched += s.Fetched
		}
		t.Logf("sent %.2f times what was read; %d of %d blocks by unicast", sent, fetched, 8*blocks)
		if sent > 1.5 {
			t.Errorf("sent %.2f times what was read, want about once", sent)
		}
	})
}

func TestOfMixedReadsTheSharedOnesStayInTheGroup(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		const blocks = 400
		r, server := apartRoom(t, seed, 8)
		order := shuffled(r.Rand, 0, blocks)
		var seekers []*seeker
		for i, c := range r.clients {
			if i < 4 {
				seekers = append(seekers, r.seek(c, order, 2))
			} else {
				seekers = append(seekers, r.seek(c, shuffled(r.Rand, uint32(i*blocks), blocks), 4))
			}
		}
		r.ended(time.Minute, seekers)
		var together, apart int
		for i, s := range seekers {
			if i < 4 {
				together += s.Fetched
			} else {
				apart += s.Fetched
			}
		}
		sent := float64(server.SentBytes) / (5 * blocks * (64 << 10))
		t.Logf("by unicast: %d of %d blocks that are shared, %d of %d that are not; sent %.2f of what is different", together, 4*blocks, apart,
			4*blocks, sent)
		if together > 4*blocks/10 || apart < 4*blocks/2 || sent > 1.4 {
			t.Error("want few of those, most of these, and each that is shared once")
		}
		// Now all read the same: the group is worth it again.
		before, fetched := server.SentBytes, together+apart
		order = shuffled(r.Rand, 8*blocks, blocks)
		var again []*seeker
		for _, c := range r.clients {
			again = append(again, r.seek(c, order, 2))
		}
		r.ended(time.Minute, again)
		for _, s := range again {
			fetched -= s.Fetched
		}
		sent = float64(server.SentBytes-before) / float64(len(order)*(64<<10))
		t.Logf("then %d of %d blocks by unicast; sent %.2f times what was read", -fetched, 8*len(order), sent)
		if sent > 2 {
			t.Errorf("sent %.2f times what all read", sent)
		}
	})
}
