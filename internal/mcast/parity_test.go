package mcast

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// listeners are clients that want everything and lose some of it, and ask for what they lack, once.
type listeners struct {
	parity parity
	rng    *rand.Rand
	loss   []float64 // of each
	row    float64   // symbols lost in a row, 0 where each is lost by itself
	fading []bool
	now    time.Time
	block  uint32
}

func newListeners(seed uint64, loss, row float64, n int) *listeners {
	q := &listeners{rng: rand.New(rand.NewPCG(seed, 7)), row: row, now: epoch, loss: make([]float64, n), fading: make([]bool, n)}
	q.lose(loss)
	return q
}

func (q *listeners) lose(loss float64) {
	for i := range q.loss {
		q.loss[i] = loss
	}
}

func (q *listeners) lost(i int) bool {
	p := q.loss[i]
	if q.row > 1 {
		if q.fading[i] {
			p = 1 - 1/q.row
		} else {
			p = min(p/(1-p)/q.row, 1)
		}
	}
	q.fading[i] = q.rng.Float64() < p
	return q.fading[i]
}

// hear lets so many blocks of one generation be sent, 400 in a second. It returns the means of the symbols of parity that went unasked, of
// those that nobody lacked, and of the blocks of which more was asked for.
func (q *listeners) hear(blocks, k int) (sent, vain, asked float64) {
	for range blocks {
		q.now = q.now.Add(time.Second / 400)
		q.block++
		n := q.parity.take(q.now, q.block, k, 0)
		most := 0 // of all symbols, that somebody needs
		needed := 0
		for i := range q.loss {
			got, last := 0, 0
			for s := 1; s <= k+n; s++ {
				if !q.lost(i) && got < k {
					got, last = got+1, s
				}
			}
			if got < k {
				q.parity.asked(q.block, k-got)
				needed = max(needed, k-got)
			}
			most = max(most, last)
		}
		sent += float64(n) / float64(blocks)
		if needed > 0 {
			asked += 1 / float64(blocks)
		} else {
			vain += float64(k+n-most) / float64(blocks)
		}
	}
	return sent, vain, asked
}

func TestAsMuchParityGoesUnaskedAsMostBlocksLack(t *testing.T) {
	for _, c := range []struct {
		loss, row float64
		clients   int
		least     float64 // symbols for a generation of 46
		most      float64
	}{
		{0, 0, 1, 0, 0},
		{0.001, 0, 8, 0, 0.2},
		{0.01, 0, 1, 0, 0.3},
		{0.01, 0, 8, 0.3, 1.2},
		{0.01, 0, 100, 1, 3},
		{0.1, 0, 1, 1.5, 4},
		{0.1, 0, 8, 5, 8},
		{0.2, 0, 8, 11, 17},
		{0.02, 8, 8, 0, 1},
		{0.1, 8, 8, 8, 16},
		{0.2, 8, 8, 20, 32},
	} {
		t.Run(fmt.Sprintf("%v lost, %v in a row, %d clients", c.loss, c.row, c.clients), func(t *testing.T) {
			for seed := range uint64(3) {
				q := newListeners(seed, c.loss, c.row, c.clients)
				q.hear(400, 46)
				sent, vain, asked := q.hear(1000, 46)
				t.Logf("seed %d: %.2f symbols unasked, %.2f of them in vain, more was asked for of %.2f of the blocks", seed, sent, vain, asked)
				if sent < c.least || sent > c.most {
					t.Errorf("%.2f symbols, want %v to %v", sent, c.least, c.most)
				}
				if vain > max(0.1, sent/8) {
					t.Errorf("%.2f symbols of %.2f in vain", vain, sent)
				}
				q.lose(0)
				if q.hear(400, 46); q.parity.level > 0 {
					t.Errorf("%d symbols a second after the loss has ended", q.parity.level)
				}
			}
		})
	}
}

func TestFewClientsThatLackNothingElseAreLeftToRepair(t *testing.T) {
	q := newListeners(1, 0, 0, 9)
	q.loss[8] = 0.02 // nothing in four blocks of ten
	if sent, _, _ := q.hear(1000, 46); sent > 0.5 {
		t.Errorf("%.2f symbols for all because of one", sent)
	}
}

func TestBlocksThatMayStillBeAskedForAreBounded(t *testing.T) {
	var p parity
	for block := range uint32(2 * maxTrials) {
		p.take(epoch, block, 46, 0)
	}
	if len(p.trials) > maxTrials || len(p.byBlock) > maxTrials {
		t.Errorf("%d blocks", len(p.trials))
	}
	p.take(epoch.Add(verdictTime), 0, 46, 0)
	if len(p.trials) != 1 || len(p.byBlock) != 1 {
		t.Errorf("%d blocks later", len(p.trials))
	}
}

func TestParityIsNoMoreThanTheDataOfAShortBlock(t *testing.T) {
	q := newListeners(1, 0.3, 0, 8)
	q.hear(1000, 46)
	if n := q.parity.take(q.now, 0, 2, 0); n > 2 {
		t.Errorf("%d symbols with two of data", n)
	}
}

func TestARepairOfAnIdleLinkIsAmple(t *testing.T) {
	for _, c := range []struct {
		name   string
		level  int // of the parity
		queued int // blocks beside it
		want   int // symbols for a need of 2
	}{
		{"hardly anything is lost", 0, 0, 2},
		{"a little is lost", 2, 0, 2},
		{"much is lost", 15, 0, 4},
		{"there is other work", 15, 3, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := newTestImage(1<<20, 64<<10)
			s := newTestSender(1, i)
			e := s.exports[1]
			ranges := []wire.Range{some(3, 2)}
			if c.queued > 0 {
				ranges = append(ranges, wire.Range{Block: 5, Count: uint16(c.queued)})
			}
			answer(t, s, epoch, addr(9), s.ask(addr(9), 0, ranges...))
			e.parity.level = c.level
			got := len(symbols(t, i.drain(s, epoch))[3])
			if got != c.want {
				t.Errorf("%d symbols, want %d", got, c.want)
			}
		})
	}
}

func TestTheStreamComesToTheHorizonThoughNothingFollows(t *testing.T) {
	for _, r := range []wire.Range{some(3, 2), whole(3), {Block: 3, Count: 5, Priority: wire.Bulk}} {
		i := newTestImage(1<<20, 64<<10)
		s := newTestSender(1, i)
		s.exports[1].parity.level = 3
		ack := answer(t, s, epoch, addr(9), s.ask(addr(9), 0, r))
		i.drain(s, epoch)
		if end := s.exports[1].seq; ack.Horizon == 0 || ack.Horizon > end {
			t.Errorf("%+v: the stream ends at %d, the horizon is %d", r, end, ack.Horizon)
		}
	}
}
