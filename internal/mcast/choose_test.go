package mcast

import (
	"math/rand/v2"
	"testing"
	"time"
)

func replicas(ids ...uint16) []*replica {
	var out []*replica
	for _, id := range ids {
		out = append(out, &replica{id: id})
	}
	return out
}

func TestAllClientsChooseTheSameServer(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	a := replicas(3, 17, 4, 1000, 65535)
	b := replicas(3, 17, 4, 1000, 65535)
	for block := range uint32(5000) {
		rng.Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] })
		for try := range 5 {
			if x, y := choose(a, epoch, block, try), choose(b, epoch, block, try); x.id != y.id {
				t.Fatalf("block %d, try %d: %d here, %d there", block, try, x.id, y.id)
			}
		}
	}
}

func TestReplicasShareTheBlocksEvenly(t *testing.T) {
	for _, ids := range [][]uint16{{1, 2}, {1, 2, 3}, {7, 1, 200, 65535}, {10, 20, 30, 40, 50, 60, 70, 80}} {
		rs := replicas(ids...)
		count := map[uint16]int{}
		const blocks = 1 << 18
		for block := range uint32(blocks) {
			count[choose(rs, epoch, block, 0).id]++
		}
		for _, id := range ids {
			if share := float64(count[id]*len(ids)) / blocks; share < 0.9 || share > 1.1 {
				t.Errorf("server %d of %v has %.2f of an even share", id, ids, share)
			}
		}
	}
}

func TestNeighbouringBlocksComeFromOneServer(t *testing.T) {
	rs := replicas(1, 2, 3)
	for run := range uint32(100) {
		first := choose(rs, epoch, run*runBlocks, 0)
		for i := range uint32(runBlocks) {
			if p := choose(rs, epoch, run*runBlocks+i, 0); p != first {
				t.Fatalf("block %d of run %d comes from server %d, the first from %d", i, run, p.id, first.id)
			}
		}
	}
}

func TestReplicasShareEachStretchOfAnImageEvenly(t *testing.T) {
	for _, ids := range [][]uint16{{1, 2}, {1, 2, 3}, {7, 1, 200, 65535}} {
		rs := replicas(ids...)
		const span = spanRuns * runBlocks
		for first := uint32(0); first < 1<<16; first += span {
			count := map[uint16]int{}
			for block := first; block < first+span; block++ {
				count[choose(rs, epoch, block, 0).id]++
			}
			for _, id := range ids {
				if count[id]*len(ids) != span {
					t.Fatalf("server %d of %v has %d of the %d blocks from %d on", id, ids, count[id], span, first)
				}
			}
		}
	}
}

func TestFewBlocksOfTheOthersMoveWhenAServerDies(t *testing.T) {
	rs := replicas(1, 2, 3, 4)
	const blocks = 5000
	moved := 0
	for block := range uint32(blocks) {
		before, second := choose(rs, epoch, block, 0), choose(rs, epoch, block, 1)
		rs[1].misses = stallMisses
		after := choose(rs, epoch, block, 0)
		rs[1].misses = 0
		if before != rs[1] && after != before {
			moved++
		}
		if before == rs[1] && after != second {
			t.Fatalf("block %d moved to %d, the next best is %d", block, after.id, second.id)
		}
	}
	if moved > blocks/10 {
		t.Errorf("%d of %d blocks moved that were not the dead server's", moved, blocks)
	}
}

func TestTriesGoThroughAllServers(t *testing.T) {
	rs := replicas(1, 2, 3)
	seen := map[*replica]int{}
	for try := range 9 {
		seen[choose(rs, epoch, 77, try)]++
	}
	for _, r := range rs {
		if seen[r] != 3 {
			t.Errorf("server %d is chosen in %d of 9 tries", r.id, seen[r])
		}
	}
}

func TestWhoIsPassedOver(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(r *replica)
		live   bool
	}{
		{"nothing wrong", func(*replica) {}, true},
		{"one request unanswered", func(r *replica) { r.misses = 1 }, true},
		{"two requests unanswered", func(r *replica) { r.misses = 2 }, false},
		{"silent while it owes blocks", func(r *replica) { r.suspect = true }, true},
		{"silent while it owes blocks, and a request unanswered", func(r *replica) { r.suspect, r.misses = true, 1 }, false},
		{"suspended", func(r *replica) { r.suspended = epoch.Add(time.Second) }, false},
		{"was suspended", func(r *replica) { r.suspended = epoch }, true},
		{"has withdrawn the image", func(r *replica) { r.withdrawn = true }, false},
	} {
		rs := replicas(1, 2)
		c.change(rs[0])
		if rs[0].live(epoch) != c.live {
			t.Errorf("%s: live is %v", c.name, !c.live)
		}
		for block := range uint32(1000) {
			if choose(rs, epoch, block, 0) == rs[0] && !c.live {
				t.Fatalf("%s: asked for block %d", c.name, block)
			}
		}
	}
}

func TestWhenNoServerLivesEachIsTried(t *testing.T) {
	rs := replicas(1, 2, 3)
	rs[0].misses, rs[1].misses = 5, 5
	rs[2].withdrawn = true
	seen := map[uint16]bool{}
	for try := range 4 {
		seen[choose(rs, epoch, 5, try).id] = true
	}
	if !seen[1] || !seen[2] || seen[3] {
		t.Errorf("tried %v; 3 has withdrawn the image", seen)
	}
	rs[0].withdrawn, rs[1].withdrawn = true, true
	if p := choose(rs, epoch, 5, 0); p != nil {
		t.Errorf("server %d, which has withdrawn the image, was chosen", p.id)
	}
	if p := choose(nil, epoch, 5, 0); p != nil {
		t.Error("a server where there is none")
	}
}

func TestTwoServersWithOneIDAreBothOfUse(t *testing.T) {
	rs := replicas(1, 1)
	for try := range 3 {
		if choose(rs, epoch, 9, try) == nil {
			t.Errorf("try %d: nobody", try)
		}
	}
}
