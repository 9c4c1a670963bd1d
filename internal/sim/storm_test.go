package sim

import (
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dnbd/dnbd/image"
)

// A thousand machines boot within a minute from four servers, one of which dies: the simulation of make sim, smaller.
func TestMachinesThatBootTogetherWaitNoLongerThanOneAlone(t *testing.T) {
	s := Storm{Seed: 1, Clients: 1, Servers: 4, Join: 10 * time.Second, Loss: 0.01, Port: 250e6}
	alone, err := s.Run()
	if err != nil {
		t.Fatal(err)
	}
	s.Clients, s.Crash = 1000, true
	all, err := s.Run()
	if err != nil {
		t.Fatal(err)
	}
	least := all.LeastToSend(all)
	t.Logf("one client: %.1f MB of %.1f, reads %v, waits %v", alone.Sent/1e6, float64(alone.Unique)/1e6, alone.Reads, alone.Waits)
	t.Logf("all: %.1f MB, %.2f of the least, control %.2f %%, reads %v, waits %v", all.Sent/1e6, all.Sent/least, 100*all.Control/all.Sent,
		all.Reads, all.Waits)
	if all.Reads[1] > 3*alone.Reads[1] || all.Waits[1] > 3*alone.Waits[1] {
		t.Error("they wait more than three times as long")
	}
	if all.Sent > 1.5*least {
		t.Error("the servers send too much")
	}
	if all.Control > 0.03*all.Sent { // it is half of that with ten thousand, where what a datagram brings is of use to more
		t.Error("control costs more than 3 % of the data")
	}
}

func TestAStormIsTheSameOnAnyNumberOfProcessors(t *testing.T) {
	s := Storm{Seed: 3, Clients: 300, Servers: 2, Join: 2 * time.Second, Loss: 0.01, Port: 250e6, Crash: true}
	was := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(was)
	one, err := s.Run()
	if err != nil {
		t.Fatal(err)
	}
	runtime.GOMAXPROCS(max(was, 4))
	many, err := s.Run()
	if err != nil {
		t.Fatal(err)
	}
	many.ServerCPU = one.ServerCPU // which is real
	for i := range one.replays {
		if !slices.Equal(one.replays[i].Used, many.replays[i].Used) {
			t.Fatalf("client %d has its blocks at other times", i)
		}
	}
	one.replays, many.replays, one.image, many.image = nil, nil, nil, nil
	if !reflect.DeepEqual(one, many) {
		t.Errorf("%+v\n%+v", one, many)
	}
}

// What the members of a crowd hear late or in bulk does not change what they need: a crowd of one is a Client.
func TestACrowdOfOneIsAClient(t *testing.T) {
	r := newRoom(t, 1, 4<<20, 64<<10)
	r.serve()
	one := r.NewCrowd(r.image, Link{Delay: lan, Loss: 0.05}, 1)
	m := one.Join(window)
	r.wait(time.Second)
	blocks := make([]uint32, r.image.Total())
	for i := range blocks {
		blocks[i] = uint32(i)
	}
	m.Read(blocks)
	r.until(10*time.Second, "the member has all", func() bool {
		for _, b := range blocks {
			if !m.Has(b) {
				return false
			}
		}
		return true
	})
	st := m.Receiver.Stats()
	if one.Wrong > 0 || st.Asked != uint64(r.image.desc.Size)+uint64(r.image.Len(r.image.Total()-1)) || !m.Receiver.Idle() {
		t.Errorf("%d wrong symbols, %+v", one.Wrong, st)
	}
	if r.sent() > 1.3 {
		t.Errorf("sent %.3f images", r.sent())
	}
}

func TestTracesThatCannotBeAreRefused(t *testing.T) {
	g, err := image.Descriptor{Name: "x", Size: 1 << 20, BlockSize: 4 << 10}.Geometry()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"", "# nothing\n", "0 0 0\n", "1 0 0 4096\n", "0 0 0 4096\n0 0 0 4096\n", "0 0 0 4096\n2 0 0 4096\n", "0 -1 0 4096\n",
		"0 0 -1 4096\n", "0 0 0 0\n", "0 0 1048576 1\n", "0 0 1 1048576\n", "0 0 0 x\n",
	} {
		if _, err := ParseTrace(strings.NewReader(text), g); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	trace, err := ParseTrace(strings.NewReader("# a boot\n0 0 0 8192\n1 50 4096 8192\n2 7 4096 1\n"), g)
	if err != nil || len(trace.Reads) != 3 {
		t.Fatalf("%+v, %v", trace, err)
	}
	if r := trace.Reads[1]; r.After != 0 || r.Think != 50*time.Microsecond || len(r.Blocks) != 1 || r.Blocks[0] != 2 {
		t.Errorf("%+v", r)
	}
	if r := trace.Reads[2]; r.After != 0 || len(r.Blocks) != 0 {
		t.Errorf("%+v", r)
	}
}
