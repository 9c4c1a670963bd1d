package udp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"golang.org/x/sys/unix"
)

// block is a train as it is sent for a block of 64 KiB on an MTU of 1500.
func block() *Segments {
	var s Segments
	fill(&s, rand.New(rand.NewPCG(1, 1)), sizes(46, 1440, 800))
	return &s
}

func TestTheDefaultReadBufferHoldsWhatItsCommentSays(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	train := block()
	for _, c := range []struct {
		name string
		o    Options
		want int // bytes of payload
	}{
		{"trains", Options{}, 24 << 20},
		{"single datagrams", Options{NoGRO: true}, 16 << 20},
	} {
		r := listener(t, l, "c1", group4, c.o)
		s := sender(t, l, "s1", group4, Options{NoGSO: c.o.NoGRO})
		for sent := 0; r.Drops() == 0; sent += train.Bytes() {
			if err := s.SendSegments(group4, train); err != nil {
				t.Fatal(err)
			}
			if sent > 256<<20 {
				t.Fatal("nothing was dropped yet")
			}
		}
		held := 0
		for m := NewMessage(); ; held += len(m.Data) {
			r.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if _, err := r.Read(m); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%s: %.1f MiB of payload held", c.name, float64(held)/(1<<20))
		if held < c.want {
			t.Errorf("%s: %d bytes of payload held, want %d", c.name, held, c.want)
		}
		r.Close()
	}
}

// BenchmarkGroup sends blocks from one host to another as fast as it can, or at a pace. Besides the throughput it reports what
// share was lost and the processor time of each end in seconds per GiB sent (the kernel's delivery counts as the
// sender's).
func BenchmarkGroup(b *testing.B) {
	l := lab.ForTest(b, lab.Options{Clients: 1})
	for _, c := range []struct {
		name       string
		gso, batch bool
		gro        bool
		gbits      float64 // pace, in bursts of a block; 0 is none
		buffer     int
	}{
		{"GSO to GRO", true, true, true, 0, 0},
		{"GSO to plain", true, true, false, 0, 0},
		{"sendmmsg to plain", false, true, false, 0, 0},
		{"sendmsg to plain", false, false, false, 0, 0},
		{"GSO to GRO at 10 Gbit per s, 256 KiB", true, true, true, 10, 256 << 10},
		{"GSO to GRO at 10 Gbit per s, 1 MiB", true, true, true, 10, 1 << 20},
		{"GSO to GRO at 10 Gbit per s, 4 MiB", true, true, true, 10, 4 << 20},
		{"GSO to GRO at 10 Gbit per s, 8 MiB", true, true, true, 10, 8 << 20},
		{"GSO to GRO at 10 Gbit per s, 16 MiB", true, true, true, 10, 16 << 20},
		{"GSO to plain at 1 Gbit per s, 1 MiB", true, true, false, 1, 1 << 20},
		{"GSO to plain at 1 Gbit per s, 4 MiB", true, true, false, 1, 4 << 20},
		{"GSO to plain at 1 Gbit per s, 8 MiB", true, true, false, 1, 8 << 20},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := listener(b, l, "c1", group4, Options{NoGRO: !c.gro, ReadBuffer: c.buffer})
			defer r.Close()
			r.SetReadDeadline(time.Time{})
			s := sender(b, l, "s1", group4, Options{NoGSO: !c.gso})
			defer s.Close()
			s.bulk.batch = c.batch
			train := block()
			b.SetBytes(int64(train.Bytes()))

			type result struct {
				bytes int
				cpu   time.Duration
				err   error
			}
			end := "end"
			done := make(chan result, 1)
			go func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				var got result
				start := threadTime()
				for m := NewMessage(); ; got.bytes += len(m.Data) {
					if _, got.err = r.Read(m); got.err != nil || string(m.Data) == end {
						break
					}
				}
				got.cpu = threadTime() - start
				done <- got
			}()

			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			burst := time.Duration(0)
			if c.gbits > 0 {
				burst = time.Duration(float64(train.Bytes()*8) / c.gbits)
			}
			cpu := threadTime()
			start := time.Now()
			sent := 0
			for b.Loop() {
				for time.Since(start) < time.Duration(sent)*burst {
					runtime.Gosched()
				}
				if err := s.SendSegments(group4, train); err != nil {
					b.Fatal(err)
				}
				sent++
			}
			cpu = threadTime() - cpu
			elapsed := time.Since(start)
			// The end may be lost where much else is, so it is said until it is heard.
			var got result
			for heard := false; !heard; {
				if err := s.Send(group4, []byte(end)); err != nil && !errors.Is(err, ErrFull) {
					b.Fatal(err)
				}
				select {
				case got = <-done:
					heard = true
				case <-time.After(time.Millisecond):
				}
			}
			if got.err != nil {
				b.Fatal(got.err)
			}
			total := sent * train.Bytes()
			gib := float64(total) / (1 << 30)
			b.ReportMetric(float64(got.bytes)*8/float64(elapsed.Nanoseconds()), "Gbit/s")
			b.ReportMetric(100*(1-float64(got.bytes)/float64(total)), "%lost")
			if c.gbits == 0 { // a pace is kept by spinning
				b.ReportMetric(cpu.Seconds()/gib, "send-s/GiB")
			}
			b.ReportMetric(got.cpu.Seconds()/gib, "read-s/GiB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// threadTime is the processor time that the calling thread has used.
func threadTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		panic(fmt.Sprint("getrusage: ", err))
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
