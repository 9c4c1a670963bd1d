package mcast

import "time"

// parity decides how many symbols of parity go out unasked with each block: as many as most blocks of late lacked at some client, by
// what was asked for after them. They would be sent all the same, after a request of each client. The rest is repaired on request.
//
// So there is no model of the loss in it. Rows of losses, clients that lose more than others, and blocks that hardly anybody wants, all
// show in what is asked for; and it costs the same for ten thousand clients as for one.
type parity struct {
	level   int                        // symbols for each generation
	lacked  [maxGeneration + 1]float64 // the part of the blocks of late that lacked so many
	enough  int                        // blocks in a row of which nobody asked for more
	rising  int                        // blocks since the level rose
	trials  []*trial                   // blocks that may still be asked for, in the order of sending
	byBlock map[uint32]*trial          // the same
}

// trial is a block that was sent with some parity.
type trial struct {
	block uint32
	at    time.Time
	sent  int // symbols of parity for each generation
	asked int // for more of them, by whoever asked for most
}

const (
	// verdictTime is how long after a block was sent it counts as having been enough for everyone: longer than a queue on the way, the pause
	// before a client asks, and the round trip take together, as a rule.
	verdictTime = 100 * time.Millisecond
	// maxTrials bounds the blocks that may still be asked for. Further ones are sent, and teach nothing.
	maxTrials = 4096
	// mostBlocks is the part of the blocks that must have lacked a symbol for it to be sent unasked: another would seldom have been
	// in vain, but what all are sent costs all.
	mostBlocks = 0.9
	// parityMemory is after how many blocks the older ones count for 1/e.
	parityMemory = 32
	// riseBlocks is how many blocks a level holds at least before it rises by one: what is lost to a queue that overflows is much, and soon over.
	riseBlocks = 4
	// mostAgain bounds what goes with a block because it lacked it before: one part in so many.
	mostAgain = 4
	// plenty is after how many blocks in a row of which nobody asked for more the loss must have become much less.
	plenty = 8
)

// take returns how many parity symbols go with a generation of k symbols of a block that is sent now, which are at least so many.
func (p *parity) take(now time.Time, block uint32, k, least int) int {
	for len(p.trials) > 0 && now.Sub(p.trials[0].at) >= verdictTime {
		t := p.trials[0]
		p.trials[0] = nil
		p.trials = p.trials[1:]
		delete(p.byBlock, t.block)
		p.learn(t)
	}
	n := min(max(p.level, least), k)
	if p.byBlock[block] == nil && len(p.trials) < maxTrials {
		t := &trial{block: block, at: now, sent: n}
		if p.byBlock == nil {
			p.byBlock = map[uint32]*trial{}
		}
		p.byBlock[block] = t
		p.trials = append(p.trials, t)
	}
	return n
}

// spare is how many symbols go with a repair of so many, of a generation of k, where the link has nothing better to carry: in proportion to
// what is lost, so that another round is seldom needed.
func (p *parity) spare(repair, k int) int { return (4*repair*p.level + k/2) / k }

// asked takes in that a client lacks so many symbols of a generation more.
func (p *parity) asked(block uint32, need int) {
	if t := p.byBlock[block]; t != nil {
		t.asked = max(t.asked, need)
	}
}

// learn takes in what became of a block.
func (p *parity) learn(t *trial) {
	switch {
	case t.asked > 0:
		p.enough = 0
		p.count(t.sent+t.asked, 1)
	case t.sent > p.level:
		return // that less is not enough does not follow
	default:
		if p.enough++; p.enough >= plenty && p.level > 0 {
			p.enough, p.level = 0, p.level/2
			clear(p.lacked[:])
			p.lacked[p.level] = 1
			return
		}
		// It may be that it lacked just as many, or less.
		p.count(t.sent, 0.5)
		p.count(max(t.sent-1, 0), 0.5)
	}
	p.rising++
	level, sum := len(p.lacked), 0.0
	for level > 0 && sum < mostBlocks {
		level--
		sum += p.lacked[level]
	}
	if level > p.level {
		if p.rising < riseBlocks {
			return
		}
		level = p.level + 1
	}
	if level != p.level {
		p.level, p.rising = level, 0
	}
}

// count adds a block that lacked n symbols, or a part of one.
func (p *parity) count(n int, part float64) {
	for i := range p.lacked {
		p.lacked[i] *= 1 - part/parityMemory
	}
	p.lacked[min(n, len(p.lacked)-1)] += part / parityMemory
}
