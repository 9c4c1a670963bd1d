package sim

import (
	"errors"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

func TestACopyGoesOnWhenItsServerIsStartedAnew(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 16<<20, 64<<10)
		s := r.serve()
		r.copy(5, Link{Loss: 0.01})
		r.wait(200 * time.Millisecond)
		s.Kill()
		r.wait(time.Duration(r.Rand.Int64N(int64(3 * time.Second))))
		back := r.Now()
		s.Start(1, 0)
		r.finish(10 * time.Second)
		t.Logf("done %v after the server was back, %.3f images sent", r.clients[0].Done.Sub(back), r.sent())
		if r.sent() > 1.4 {
			t.Errorf("sent %.3f images", r.sent())
		}
	})
}

func TestACopyGoesOnWhenItsServerIsStartedAnewAtOnce(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 16<<20, 64<<10)
		s := r.serve()
		r.copy(5, Link{})
		for range 4 {
			r.wait(100 * time.Millisecond)
			s.Start(1, 0)
		}
		r.finish(10 * time.Second)
		t.Logf("%v, %.3f images sent", r.clients[0].Done.Sub(r.start), r.sent())
		if r.sent() > 1.5 {
			t.Errorf("sent %.3f images", r.sent())
		}
	})
}

func TestACopyGoesOnWhenItsServerWasStopped(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 16<<20, 64<<10)
		s := r.serve()
		r.copy(5, Link{Loss: 0.01})
		r.wait(200 * time.Millisecond)
		s.Stop()
		r.wait(time.Duration(r.Rand.Int64N(int64(40 * time.Second))))
		back := r.Now()
		s.Continue()
		r.finish(10 * time.Second)
		t.Logf("done %v after the server went on, %.3f images sent", r.clients[0].Done.Sub(back), r.sent())
		if r.sent() > 1.4 {
			t.Errorf("sent %.3f images", r.sent())
		}
	})
}

// The promise to a user who sits before the machine.
const longestWait = 250 * time.Millisecond

func TestADemandReaderHardlyNoticesThatAReplicaFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		fail   func(s *Server)
		copies int // clients that copy the image meanwhile, so that there is a backlog
	}{
		{"killed", func(s *Server) { s.Kill() }, 0},
		{"stopped", func(s *Server) { s.Stop() }, 0},
		{"killed under load", func(s *Server) { s.Kill() }, 4},
		{"stopped under load", func(s *Server) { s.Stop() }, 4},
		{"mute under load", func(s *Server) { s.Link.Mute = true }, 4},
		{"mute", func(s *Server) { s.Link.Mute = true }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			seeds(t, 5, func(t *testing.T, seed uint64) {
				r := newRoom(t, seed, 32<<20, 64<<10)
				r.serve()
				r.serve()
				d := r.read(r.join(Link{}), 8, time.Millisecond)
				r.wait(50 * time.Millisecond)
				r.copy(c.copies, Link{})
				r.wait(100*time.Millisecond + time.Duration(r.Rand.Int64N(int64(200*time.Millisecond))))
				before := d.longest
				c.fail(r.servers[seed%2])
				r.until(20*time.Second, "the reader has read all", d.done)
				r.clients = r.clients[1:]
				r.finish(20 * time.Second)
				t.Logf("longest read %v (block %d), %v before; all in %v", d.longest, d.at, before, r.elapsed())
				if d.longest > longestWait {
					t.Errorf("a read took %v", d.longest)
				}
			})
		})
	}
}

// It answers every WANT and its data arrives nowhere: a router in between that carries no multicast.
func TestAReplicaThatAnswersButIsNotHeardIsPassedOver(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 16<<20, 64<<10)
		r.serve().Link.Mute = true
		r.serve()
		d := r.read(r.join(Link{}), 8, 0)
		r.copy(2, Link{Loss: 0.01})
		r.until(20*time.Second, "the reader has read all", d.done)
		t.Logf("longest read %v (block %d), all in %v", d.longest, d.at, r.elapsed())
		r.finish(20 * time.Second)
		if d.longest > longestWait {
			t.Errorf("a read took %v", d.longest)
		}
	})
}

func TestBlocksThatOneReplicaCannotReadComeFromTheOther(t *testing.T) {
	seeds(t, 5, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 16<<20, 64<<10)
		r.serve().LoadErr = func(block uint32) error {
			if block%7 == 3 {
				return errors.New("bad sector")
			}
			return nil
		}
		r.serve()
		d := r.read(r.join(Link{}), 8, 0)
		r.wait(10 * time.Millisecond)
		r.copy(2, Link{Loss: 0.01})
		r.until(30*time.Second, "the reader has read all", d.done)
		t.Logf("longest read %v (block %d), all in %v, %.3f images", d.longest, d.at, r.elapsed(), r.sent())
		r.finish(30 * time.Second)
		if d.longest > longestWait {
			t.Errorf("a read took %v", d.longest)
		}
	})
}

func TestAWithdrawnImageIsReadFromAnotherReplica(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 16<<20, 64<<10)
		r.serve()
		r.serve()
		d := r.read(r.join(Link{}), 8, time.Millisecond)
		r.copy(3, Link{Loss: 0.01})
		r.wait(200 * time.Millisecond)
		r.servers[0].Withdraw(true)
		r.wait(10 * time.Millisecond)
		before := r.servers[0].Sender.Stats().Symbols
		r.until(20*time.Second, "the reader has read all", d.done)
		r.finish(20 * time.Second)
		if n := r.servers[0].Sender.Stats().Symbols - before; n > 0 {
			t.Errorf("%d symbols of an image that was withdrawn", n)
		}
		t.Logf("longest read %v (block %d), all in %v", d.longest, d.at, r.elapsed())
		if d.longest > longestWait {
			t.Errorf("a read took %v", d.longest)
		}
	})
}

func TestReadsWaitWhileTheImageIsWithdrawnEverywhere(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 4<<20, 64<<10)
		s := r.serve()
		r.copy(3, Link{})
		r.wait(50 * time.Millisecond)
		s.Withdraw(true)
		r.wait(45 * time.Second)
		if r.clients[0].Left == 0 {
			t.Fatal("it was there before it was withdrawn")
		}
		heard := r.servers[0].HeardPackets
		r.wait(10 * time.Second)
		if n := r.servers[0].HeardPackets - heard; n > 100 {
			t.Errorf("%d datagrams in 10 s asked for what is not to be had", n)
		}
		s.Withdraw(false)
		r.finish(5 * time.Second)
	})
}

func TestANewServerIsFoundAfterTheLastOneLeft(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 8<<20, 64<<10)
		s := r.serve()
		r.copy(3, Link{})
		r.wait(100 * time.Millisecond)
		s.Sender.Leave()
		s.pump()
		s.Kill()
		r.wait(40 * time.Second)
		r.serve()
		r.finish(5 * time.Second)
		t.Logf("%.3f images sent", r.sent())
	})
}

func TestReadsGoOnWhenTheNetworkIsBack(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 16<<20, 64<<10)
		r.serve()
		d := r.read(r.join(Link{}), 8, 0)
		r.copy(3, Link{})
		r.wait(100 * time.Millisecond)
		c := d.client
		c.Link.Down = true
		r.wait(time.Duration(r.Rand.Int64N(int64(60 * time.Second))))
		c.Link.Down = false
		back := r.Now()
		r.until(5*time.Second, "the reader has read all", d.done)
		t.Logf("done %v after the network was back", r.Now().Sub(back))
		r.finish(5 * time.Second)
	})
}

func TestReorderedAndDuplicatedDatagramsCostLittle(t *testing.T) {
	for _, c := range []struct {
		name string
		link Link
		most float64
	}{
		{"jitter 200 µs", Link{Jitter: 200 * time.Microsecond}, 1.07},
		{"jitter 5 ms", Link{Jitter: 5 * time.Millisecond}, 2},
		{"every tenth twice", Link{Duplicate: 0.1}, 1.07},
		{"all of it", Link{Jitter: time.Millisecond, Duplicate: 0.1, Loss: 0.01}, 1.3},
	} {
		t.Run(c.name, func(t *testing.T) {
			seeds(t, 3, func(t *testing.T, seed uint64) {
				r := newRoom(t, seed, 16<<20, 64<<10)
				r.serve()
				r.copy(5, c.link)
				r.finish(10 * time.Second)
				t.Logf("sent %.3f images, %v", r.sent(), r.clients[0].Done.Sub(r.start))
				if r.sent() > c.most {
					t.Errorf("sent %.3f images, %.3f at most", r.sent(), c.most)
				}
			})
		})
	}
}

// Each joiner misses what went out before it came; that is sent once more, for all late ones together.
func TestLateClientsCostWhatTheyMissedAndNoMore(t *testing.T) {
	const size = 32 << 20
	for _, c := range []struct {
		name   string
		n      int
		apart  time.Duration
		demand bool
	}{
		{"one at half", 2, 700 * time.Millisecond, false},
		{"8, 100 ms apart", 8, 100 * time.Millisecond, false},
		{"8, 250 ms apart", 8, 250 * time.Millisecond, false},
		{"30, 20 ms apart", 30, 20 * time.Millisecond, false},
		{"readers, 100 ms apart", 8, 100 * time.Millisecond, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			seeds(t, 2, func(t *testing.T, seed uint64) {
				r := newRoom(t, seed, size, 64<<10)
				s := r.serve()
				var late float64 // images sent before the last one came
				joined := map[*Client]time.Time{}
				for i := range c.n {
					if i > 0 {
						r.wait(c.apart)
					}
					late = r.sent()
					client := r.join(Link{})
					joined[client] = r.Now()
					if c.demand {
						r.read(client, 32, 0)
					} else {
						client.Copy()
					}
				}
				r.finish(30 * time.Second)
				var slowest time.Duration
				for client, at := range joined {
					slowest = max(slowest, client.Done.Sub(at))
				}
				bound := overhead + late
				t.Logf("sent %.3f images, %.3f of the bound %.3f; slowest client %v; %+v", r.sent(), r.sent()/bound, bound, slowest, s.Sender.Stats())
				if r.sent() > 1.08*bound {
					t.Errorf("sent %.3f images where %.3f are unavoidable", r.sent(), bound)
				}
			})
		})
	}
}

func TestWhatAnotherFetchesIsOverheard(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 16<<20, 64<<10)
		r.serve()
		idle := r.join(Link{})
		idle.Read(0, wire.Demand) // so that it knows the group
		r.wait(100 * time.Millisecond)
		r.read(r.join(Link{}), 16, 0)
		r.finish(10 * time.Second)
		before := r.sent()
		d := r.read(idle, 16, 0)
		r.until(time.Second, "the second reader has read all", d.done)
		if r.sent() > before {
			t.Errorf("%.3f images sent for a reader that had heard everything", r.sent()-before)
		}
	})
}
