package udp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/dnbd/dnbd/e2e/lab"
	"golang.org/x/sys/unix"
)

// patience bounds a wait for what must happen; a test that reaches it has failed.
const patience = 10 * time.Second

var (
	group4 = netip.MustParseAddrPort("239.0.0.1:10810")
	group6 = netip.MustParseAddrPort("[ff15::1]:10810")
)

// on returns what open opens on a host of l, and closes it when the test ends.
func on(t testing.TB, l *lab.Lab, host string, group netip.AddrPort, open func(Interface) (*Conn, error)) *Conn {
	t.Helper()
	var c *Conn
	err := l.Do(host, func() error {
		ifaces, err := Interfaces("", group.Addr())
		if err != nil {
			return err
		}
		if len(ifaces) != 1 || ifaces[0].Name != "eth0" {
			return fmt.Errorf("interfaces %v, want eth0 alone", ifaces)
		}
		c, err = open(ifaces[0])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func sender(t testing.TB, l *lab.Lab, host string, group netip.AddrPort, o Options) *Conn {
	t.Helper()
	return on(t, l, host, group, func(i Interface) (*Conn, error) { return ListenUnicast(i, 0, o) })
}

func listener(t testing.TB, l *lab.Lab, host string, group netip.AddrPort, o Options) *Conn {
	t.Helper()
	c := on(t, l, host, group, func(i Interface) (*Conn, error) { return ListenGroup(group, []Interface{i}, o) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := l.AwaitMember(ctx, host, group.Addr()); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	return c
}

// ways are the ways to send that SendSegments chooses from.
var ways = []struct {
	name       string
	gso, batch bool
}{{"GSO", true, true}, {"sendmmsg", false, true}, {"sendmsg", false, false}}

// trains are sizes of datagrams to send at once.
var trains = map[string][]int{
	"single":             {100},
	"one byte":           {1},
	"largest":            {1448},
	"pair":               {700, 700},
	"shorter last":       {1400, 1400, 200},
	"shorter first":      {200, 1400, 1400},
	"growing":            {100, 200, 300, 400},
	"shrinking":          {400, 300, 200, 100},
	"sawtooth":           {1000, 500, 1000, 500, 1000},
	"block of 64 KiB":    sizes(46, 1440, 800),
	"more than 64":       sizes(200, 300, 10),
	"more than 65507":    sizes(60, 1448, 1),
	"exactly 64, equal":  sizes(63, 64, 64),
	"small then a block": append([]int{60}, sizes(46, 1440, 800)...),
}

func sizes(n, size, last int) []int {
	var s []int
	for range n {
		s = append(s, size)
	}
	return append(s, last)
}

// fill makes a train of datagrams of these sizes with random bytes, and returns them as a receiver should see them.
func fill(s *Segments, rng *rand.Rand, sizes []int) [][]byte {
	s.Reset()
	var want [][]byte
	for i, size := range sizes {
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		want = append(want, b)
		header := min(i%5*10, size) // among them none, and all
		s.Add(b[:header], b[header:])
	}
	return want
}

// pin keeps the calling goroutine on one processor for as long as it lasts. A sender that the kernel moves to another one between two
// calls has its earlier datagrams overtaken, since each processor has a queue of its own for what virtual links carry.
func pin(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for !may.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
}

// place is where b is among datagrams, -1 for nowhere.
func place(datagrams [][]byte, b []byte) int {
	return slices.IndexFunc(datagrams, func(d []byte) bool { return bytes.Equal(d, b) })
}

// expect reads until each of want has arrived at c once, and nothing else. A train has its datagrams in order; what comes one by one may
// overtake each other, as it does on virtual links even when it is sent from one processor. expect returns the bytes of the first message.
func expect(t *testing.T, c *Conn, m *Message, from netip.AddrPort, want [][]byte) (first int) {
	t.Helper()
	want = slices.Clone(want)
	for len(want) > 0 {
		if _, err := c.Read(m); err != nil {
			t.Fatalf("%d datagrams are missing: %v", len(want), err)
		}
		if m.From != from || m.IfIndex != c.ifaces[0].Index {
			t.Fatalf("from %v by interface %d, want %v by %d", m.From, m.IfIndex, from, c.ifaces[0].Index)
		}
		if first == 0 {
			first = len(m.Data)
		}
		last := 0
		for _, s := range m.Segments(nil) {
			at := place(want, s)
			if at < last {
				t.Fatalf("got a datagram of %d bytes in a train, which is number %d of the %d missing, after number %d", len(s), at, len(want), last)
			}
			want = slices.Delete(want, at, at+1)
			last = at
		}
	}
	return first
}

// Loopback keeps the order in which one processor sends, so it shows in which order a train leaves.
func TestATrainLeavesInOrder(t *testing.T) {
	lo := Interface{Addr: netip.MustParseAddr("127.0.0.1"), MTU: 16384}
	to, err := ListenUnicast(lo, 0, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	to.SetReadDeadline(time.Now().Add(patience))
	pin(t)
	m := NewMessage()
	for _, way := range ways {
		from, err := ListenUnicast(lo, 0, Options{NoGSO: !way.gso})
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		from.bulk.batch = way.batch
		for name, sizes := range trains {
			var train Segments
			want := fill(&train, rand.New(rand.NewPCG(1, uint64(len(sizes)))), sizes)
			if err := from.SendSegments(to.LocalAddr(), &train); err != nil {
				t.Fatal(err)
			}
			var got [][]byte
			for len(got) < len(want) {
				if _, err := to.Read(m); err != nil {
					t.Fatalf("%s, %s: after %d of %d datagrams: %v", way.name, name, len(got), len(want), err)
				}
				for _, s := range m.Segments(nil) {
					got = append(got, bytes.Clone(s))
				}
			}
			if !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("%s, %s: the %d datagrams arrived in another order, or changed", way.name, name, len(want))
			}
		}
	}
}

func TestATrainReachesEveryListenerOfTheGroupUnchanged(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 2})
	for _, group := range []netip.AddrPort{group4, group6} {
		receivers := map[string]*Conn{
			"a client":                       listener(t, l, "c1", group, Options{}),
			"another process of that client": listener(t, l, "c1", group, Options{}),
			"a client without GRO":           listener(t, l, "c2", group, Options{NoGRO: true}),
			"a client on the sender's host":  listener(t, l, "s1", group, Options{}),
		}
		for _, way := range ways {
			s := sender(t, l, "s1", group, Options{NoGSO: !way.gso})
			s.bulk.batch = way.batch
			for name, sizes := range trains {
				t.Run(fmt.Sprintf("%v/%s/%s", group.Addr(), way.name, name), func(t *testing.T) {
					var train Segments
					want := fill(&train, rand.New(rand.NewPCG(1, uint64(len(sizes)))), sizes)
					if err := s.SendSegments(group, &train); err != nil {
						t.Fatal(err)
					}
					m := NewMessage()
					for who, c := range receivers {
						t.Log(who)
						expect(t, c, m, s.LocalAddr(), want)
					}
					if s.bulk.gso != way.gso || s.bulk.batch != way.batch {
						t.Errorf("%s was given up", way.name)
					}
				})
			}
		}
		for who, c := range receivers {
			if n := c.Drops(); n != 0 {
				t.Errorf("%s dropped %d", who, n)
			}
		}
	}
}

func TestATrainArrivesInOneReadWithGSOAndGRO(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	for _, group := range []netip.AddrPort{group4, group6} {
		r := listener(t, l, "c1", group, Options{})
		s := sender(t, l, "s1", group, Options{})
		var train Segments
		fill(&train, rand.New(rand.NewPCG(1, 1)), sizes(44, 1440, 800))
		if err := s.SendSegments(group, &train); err != nil {
			t.Fatal(err)
		}
		m := NewMessage()
		if _, err := r.Read(m); err != nil {
			t.Fatal(err)
		}
		if len(m.Data) != train.Bytes() || m.Segment != 1440 {
			t.Errorf("one Read gave %d bytes in segments of %d, want %d and 1440", len(m.Data), m.Segment, train.Bytes())
		}
	}
}

// awaitQueued waits until what c has to be read occupies n bytes of the kernel's memory or more, and returns how many it does.
func awaitQueued(t *testing.T, c *Conn, n int) int {
	t.Helper()
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		queued := 0
		if err := c.raw.Control(func(fd uintptr) {
			var info [unix.SK_MEMINFO_RMEM_ALLOC + 1]uint32
			size := uint32(unsafe.Sizeof(info))
			unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
				uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
			queued = int(info[unix.SK_MEMINFO_RMEM_ALLOC])
		}); err != nil {
			t.Fatal(err)
		}
		if queued >= n {
			return queued
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are queued, want %d", queued, n)
		}
	}
}

func TestDatagramsThatWaitAreReadTogether(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 2})
	for _, group := range []netip.AddrPort{group4, group6} {
		r := listener(t, l, "c1", group, Options{NoGRO: true})
		alone := Options{NoGSO: true} // so that each datagram occupies as much as any other
		senders := []*Conn{sender(t, l, "s1", group, alone), sender(t, l, "c2", group, alone)}
		var want [][]byte
		var train Segments
		send := func(datagrams int) {
			t.Helper()
			turn := len(want)
			want = append(want, fill(&train, rand.New(rand.NewPCG(1, uint64(turn))), sizes(datagrams-1, 1000, 1000))...)
			if err := senders[turn/10%2].SendSegments(group, &train); err != nil {
				t.Fatal(err)
			}
		}
		send(1)
		each := awaitQueued(t, r, 1)
		send(9)
		for len(want) < 40 {
			awaitQueued(t, r, len(want)*each)
			send(10)
		}
		awaitQueued(t, r, len(want)*each)
		batch := NewBatch()
		got := 0
		for _, count := range []int{Batch, Batch, 40 - 2*Batch} {
			n, err := r.Read(batch...)
			if err != nil || n != count {
				t.Fatalf("%v: a Read gave %d messages (%v), want %d", group, n, err, count)
			}
			for _, m := range batch[:n] {
				from := senders[got/10%2].LocalAddr()
				at := place(want, m.Data)
				if at < 0 || at/10 != got/10 || m.Segment != len(m.Data) || m.From != from || m.IfIndex != r.ifaces[0].Index {
					t.Fatalf("%v: message %d of %d bytes in segments of %d from %v by %d is number %d of what was sent, want ten from %v at a time",
						group, got, len(m.Data), m.Segment, m.From, m.IfIndex, at, from)
				}
				want[at] = nil
				got++
			}
		}
	}
}

// A train is as much as a batch already, and the buffers of a batch of trains would not stay in a processor's cache.
func TestTrainsAreReadOneByOneOnceTheyCome(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	r := listener(t, l, "c1", group4, Options{})
	s := sender(t, l, "s1", group4, Options{})
	batch := NewBatch()
	var train Segments
	fill(&train, rand.New(rand.NewPCG(1, 1)), sizes(9, 1000, 1000))
	for sent := range 3 {
		for range 1 + sent {
			if err := s.SendSegments(group4, &train); err != nil {
				t.Fatal(err)
			}
		}
		awaitQueued(t, r, (1+sent)*train.Bytes()) // a train occupies somewhat more than its bytes, and less than twice
		for range 1 + sent {
			n, err := r.Read(batch...)
			if err != nil || n != 1 || len(batch[0].Data) != train.Bytes() {
				t.Fatalf("a Read gave %d messages, the first of %d bytes (%v), want one train of %d", n, len(batch[0].Data), err, train.Bytes())
			}
		}
	}
}

func TestAListenerHearsOnlyItsGroup(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	for _, group := range []netip.AddrPort{group4, group6} {
		a := group.Addr().AsSlice()
		a[len(a)-1]++
		next, _ := netip.AddrFromSlice(a)
		other := netip.AddrPortFrom(next, group.Port())
		r := listener(t, l, "c1", group, Options{})
		r2 := listener(t, l, "c1", other, Options{})
		s := sender(t, l, "s1", group, Options{})
		mine := on(t, l, "c1", group, func(i Interface) (*Conn, error) { return ListenUnicast(i, group.Port(), Options{}) })
		for _, c := range []struct {
			to   netip.AddrPort
			text string
		}{{other, "to the other group"}, {mine.LocalAddr(), "to the host"}, {group, "to the group"}} {
			if err := s.Send(c.to, []byte(c.text)); err != nil {
				t.Fatal(err)
			}
		}
		m := NewMessage()
		expect(t, r, m, s.LocalAddr(), [][]byte{[]byte("to the group")})
		expect(t, r2, m, s.LocalAddr(), [][]byte{[]byte("to the other group")})
		expect(t, mine, m, s.LocalAddr(), [][]byte{[]byte("to the host")})
	}
}

func TestALinkLocalPeerCanBeAnswered(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	group := netip.MustParseAddrPort("[ff12::1]:10810")
	r := listener(t, l, "c1", group, Options{})
	linkLocal := func(host string) *Conn {
		return on(t, l, host, group, func(i Interface) (*Conn, error) {
			ifi, err := net.InterfaceByIndex(i.Index)
			if err != nil {
				return nil, err
			}
			addrs, err := ifi.Addrs()
			if err != nil {
				return nil, err
			}
			for _, a := range addrs {
				p, err := netip.ParsePrefix(a.String())
				if err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
					i.Addr = p.Addr().WithZone(i.Name)
				}
			}
			return ListenUnicast(i, 0, Options{})
		})
	}
	s, c := linkLocal("s1"), linkLocal("c1")
	if err := s.Send(group, []byte("who is there?")); err != nil {
		t.Fatal(err)
	}
	m := NewMessage()
	expect(t, r, m, s.LocalAddr(), [][]byte{[]byte("who is there?")})
	if err := c.Send(m.From, []byte("I")); err != nil {
		t.Fatal(err)
	}
	expect(t, s, m, c.LocalAddr(), [][]byte{[]byte("I")})
}

// memory is a log that keeps its lines.
func memory() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, nil)), &b
}

func TestWhatTheSystemRefusesIsGivenUpAndLoggedOnce(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	r := listener(t, l, "c1", group4, Options{})
	log, text := memory()
	s := sender(t, l, "s1", group4, Options{Log: log})
	m := NewMessage()
	send := func() {
		t.Helper()
		for seed := range uint64(3) {
			var train Segments
			want := fill(&train, rand.New(rand.NewPCG(seed, 1)), sizes(100, 1000, 10))
			if err := s.SendSegments(group4, &train); err != nil {
				t.Fatal(err)
			}
			expect(t, r, m, s.LocalAddr(), want)
		}
	}
	logged := func(what string, want int) {
		t.Helper()
		if n := strings.Count(text.String(), what); n != want {
			t.Errorf("%q was logged %d times, want %d:\n%s", what, n, want, text)
		}
	}

	// Linux refuses GSO where checksums are off.
	if err := s.raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	send()
	logged("(GSO)", 1)
	logged("(sendmmsg)", 0)
	if s.bulk.gso || !s.bulk.batch {
		t.Errorf("GSO %v, sendmmsg %v, want only the latter", s.bulk.gso, s.bulk.batch)
	}

	if err := l.Do("s1", func() error {
		if err := forbidSendmmsg(); err != nil {
			return err
		}
		send()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	logged("(GSO)", 1)
	logged("(sendmmsg)", 1)
}

// forbidSendmmsg makes sendmmsg fail with ENOSYS on this thread, for good, as some sandboxes do.
func forbidSendmmsg() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SENDMMSG, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

func TestATrainThatExceedsTheMTUFailsAndCostsNoSpeed(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	for _, c := range []struct {
		group netip.AddrPort
		fits  int
	}{{group4, 1472}, {group6, 1452}} {
		for _, way := range ways {
			s := sender(t, l, "s1", c.group, Options{NoGSO: !way.gso})
			s.bulk.batch = way.batch
			for _, n := range []int{1, 3} {
				var train Segments
				fill(&train, rand.New(rand.NewPCG(1, 1)), sizes(n-1, c.fits, c.fits))
				if err := s.SendSegments(c.group, &train); err != nil {
					t.Errorf("%s: %d datagrams of %d bytes: %v", way.name, n, c.fits, err)
				}
				fill(&train, rand.New(rand.NewPCG(1, 1)), sizes(n-1, c.fits+1, c.fits+1))
				err := s.SendSegments(c.group, &train)
				if !errors.Is(err, unix.EMSGSIZE) ||
					!strings.Contains(err.Error(), fmt.Sprintf("at most %d fit the interface MTU of 1500 on eth0", c.fits)) {
					t.Errorf("%s: %d datagrams of %d bytes: %v, want EMSGSIZE", way.name, n, c.fits+1, err)
				}
			}
			if err := s.Send(c.group, make([]byte, c.fits+1)); !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("Send of %d bytes: %v, want EMSGSIZE", c.fits+1, err)
			}
			if s.bulk.gso != way.gso || s.bulk.batch != way.batch {
				t.Errorf("%s was given up", way.name)
			}
		}
	}
}

func TestAnEqualTrainAvoidsGSOOnKernelsThatCorruptIt(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	r := listener(t, l, "c1", group4, Options{})
	s := sender(t, l, "s1", group4, Options{})
	s.bulk.shortTail = true
	m := NewMessage()
	for _, c := range []struct {
		sizes []int
		first int // bytes that the first Read gives
	}{
		{sizes(9, 1000, 1000), 1000},
		{sizes(9, 1000, 10), 9010},
	} {
		var train Segments
		want := fill(&train, rand.New(rand.NewPCG(1, 1)), c.sizes)
		if err := s.SendSegments(group4, &train); err != nil {
			t.Fatal(err)
		}
		if first := expect(t, r, m, s.LocalAddr(), want); first != c.first {
			t.Errorf("the first Read gave %d bytes, want %d", first, c.first)
		}
	}
}

func TestDatagramsAreNeverFragmented(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	for _, c := range []struct {
		group               netip.AddrPort
		level, option, want int
	}{
		{group4, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE},
		{group4, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 3},
		{group6, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE},
		{group6, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1},
		{group6, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 3},
	} {
		s := sender(t, l, "s1", c.group, Options{TTL: 3})
		if err := s.raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), c.level, c.option); err != nil || got != c.want {
				t.Errorf("option %d of level %d: %d (%v), want %d", c.option, c.level, got, err, c.want)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}

	// And what the flag looks like on the wire, from the first packet that a raw socket at the other end sees.
	l = lab.ForTest(t, lab.Options{Clients: 1})
	listener(t, l, "c1", group4, Options{})
	var raw *net.IPConn
	if err := l.Do("c1", func() (err error) {
		raw, err = net.ListenIP("ip4:udp", &net.IPAddr{IP: net.IP(group4.Addr().AsSlice())})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	packets, err := raw.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.SetReadDeadline(time.Now().Add(patience))
	s := sender(t, l, "s1", group4, Options{})
	if err := s.Send(group4, []byte("x")); err != nil {
		t.Fatal(err)
	}
	packet := make([]byte, 100)
	if err := packets.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), packet, 0)
		packet = packet[:max(n, 0)]
		return err != unix.EAGAIN
	}); err != nil {
		t.Fatal(err)
	}
	const dontFragment = 0x4000 // RFC 791, flags and fragment offset
	if len(packet) != 20+8+1 || binary.BigEndian.Uint16(packet[6:]) != dontFragment || packet[8] != DefaultTTL {
		t.Errorf("the packet is %x, want DF, no offset and TTL 1", packet)
	}
}

func TestWhatAFullBufferDropsIsCounted(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	for _, group := range []netip.AddrPort{group4, group6} {
		r := listener(t, l, "c1", group, Options{ReadBuffer: 16 << 10, NoGRO: true})
		s := sender(t, l, "s1", group, Options{})
		var train Segments
		const sent = 500
		fill(&train, rand.New(rand.NewPCG(1, 1)), sizes(sent-1, 1000, 1000))
		if err := s.SendSegments(group, &train); err != nil {
			t.Fatal(err)
		}
		// The reader has slept until here. What did not fit is gone, and is known before anything is read.
		m := NewMessage()
		got := 0
		for deadline := time.Now().Add(patience); r.Drops() == 0 || got+int(r.Drops()) < sent; {
			r.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if _, err := r.Read(m); err == nil {
				got++
			} else if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d received and %d dropped of %d", got, r.Drops(), sent)
			}
		}
		if got == 0 || got+int(r.Drops()) != sent {
			t.Errorf("%d received and %d dropped of %d", got, r.Drops(), sent)
		}
		counted := r.Drops()
		r.Close()
		if r.Drops() != counted {
			t.Errorf("Drops after Close = %d, want %d", r.Drops(), counted)
		}
	}
}

func TestCloseUnblocksReadAndLaterCallsFail(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	c := listener(t, l, "s1", group4, Options{})
	reading := make(chan error)
	go func() {
		m := NewMessage()
		if _, err := c.Read(m); err != nil {
			t.Errorf("first Read: %v", err)
		}
		reading <- nil
		_, err := c.Read(m)
		reading <- err
	}()
	s := sender(t, l, "s1", group4, Options{})
	if err := s.Send(group4, []byte("x")); err != nil {
		t.Fatal(err)
	}
	<-reading
	for range 2 {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if err := <-reading; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read = %v, want net.ErrClosed", err)
	}
	var train Segments
	train.Add(nil, []byte("x"))
	_, readErr := c.Read(NewMessage())
	for what, err := range map[string]error{
		"Read":         readErr,
		"Send":         c.Send(group4, []byte("x")),
		"SendSegments": c.SendSegments(group4, &train),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close = %v, want net.ErrClosed", what, err)
		}
	}
}

func TestASlowLinkHoldsUpTrainsButNotControl(t *testing.T) {
	l := lab.ForTest(t, lab.Options{ServerRate: 8e3}) // a byte each millisecond: nothing leaves during the test
	for _, way := range ways {
		s := sender(t, l, "s1", group4, Options{WriteBuffer: 64 << 10, NoGSO: !way.gso})
		s.bulk.batch = way.batch
		done := make(chan error, 1)
		go func() {
			var train Segments
			fill(&train, rand.New(rand.NewPCG(1, 1)), sizes(45, 1000, 10))
			for {
				if err := s.SendSegments(group4, &train); err != nil {
					done <- err
					return
				}
			}
		}()
		for deadline := time.Now().Add(patience); ; runtime.Gosched() {
			err := s.Send(group4, []byte("control"))
			if errors.Is(err, ErrFull) {
				break
			}
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("%s: Send = %v, want ErrFull in the end", way.name, err)
			}
		}
		select {
		case err := <-done:
			t.Fatalf("%s: SendSegments = %v, want it to wait", way.name, err)
		default:
		}
		s.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: SendSegments = %v, want net.ErrClosed", way.name, err)
		}
	}
}

func TestATakenPortIsAnErrorThatNamesTheHolder(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	for _, group := range []netip.AddrPort{group4, group6} {
		s := sender(t, l, "s1", group, Options{})
		err := l.Do("s1", func() error {
			_, err := ListenUnicast(s.ifaces[0], s.LocalAddr().Port(), Options{})
			return err
		})
		want := fmt.Sprintf("listen on %v: bind: address already in use: held by process %d (", s.LocalAddr(), os.Getpid())
		if !errors.Is(err, unix.EADDRINUSE) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s…", err, want)
		}
	}
}

func TestTheReadBufferIsWhatTheKernelGrants(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	// As root the system's limit does not count, and twice the size is granted for the overhead.
	if c := listener(t, l, "s1", group4, Options{ReadBuffer: 64 << 20}); c.ReadBuffer() != 128<<20 {
		t.Errorf("asked for 64 MiB, granted %d", c.ReadBuffer())
	}
	if c := listener(t, l, "s1", group4, Options{}); c.ReadBuffer() != 2*DefaultReadBuffer {
		t.Errorf("asked for the default, granted %d", c.ReadBuffer())
	}
}

func TestInterfacesAreThoseThatCanCarryTheGroup(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	configure := func(commands ...string) {
		t.Helper()
		for _, c := range commands {
			if out, err := l.Command(t.Context(), "c1", "ip", strings.Fields(c)...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", c, err, out)
			}
		}
	}
	configure("link add down0 type bridge",
		"link add nomc0 type bridge", "link set nomc0 up multicast off",
		"link add no4 type bridge", "link set no4 up multicast on",
		"link add both0 type bridge", "addr add 10.99.0.1/24 dev both0", "link set both0 up multicast on mtu 9000")
	for _, c := range []struct {
		name, group, want, err string
	}{
		{"", "239.0.0.1", "eth0 10.77.10.1 1500, both0 10.99.0.1 9000", ""},
		{"eth0", "239.0.0.1", "eth0 10.77.10.1 1500", ""},
		{"eth0", "ff15::1", "eth0 fd77::a01 1500", ""},
		{"lo", "239.0.0.1", "lo 127.0.0.1 65536", ""},
		{"", "ff12::1%eth0", "eth0 fd77::a01 1500", ""},
		{"down0", "239.0.0.1", "", "down0 is down"},
		{"nomc0", "239.0.0.1", "", "nomc0 cannot multicast"},
		{"no4", "239.0.0.1", "", "no4 has no IPv4 address"},
		{"wlan9", "239.0.0.1", "", "no such interface wlan9; there are: lo, eth0, down0, nomc0, no4, both0"},
		{"", "10.0.0.1", "", "group 10.0.0.1 is not a multicast address"},
	} {
		var got []string
		err := l.Do("c1", func() error {
			ifaces, err := Interfaces(c.name, netip.MustParseAddr(c.group))
			for _, i := range ifaces {
				got = append(got, fmt.Sprint(i.Name, " ", i.Addr, " ", i.MTU))
			}
			return err
		})
		if strings.Join(got, ", ") != c.want || (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
			t.Errorf("Interfaces(%q, %s) = %q, %v; want %q, %s", c.name, c.group, got, err, c.want, c.err)
		}
	}

	configure("link del both0", "link set eth0 down")
	for _, c := range []struct{ lo, want, err string }{
		{"up", "lo", ""},
		{"down", "", "no interface can multicast to 239.0.0.1: lo is down; eth0 is down; down0 is down; nomc0 cannot multicast; no4 has no IPv4 address"},
	} {
		configure("link set lo " + c.lo)
		var got string
		err := l.Do("c1", func() error {
			ifaces, err := Interfaces("", group4.Addr())
			for _, i := range ifaces {
				got += i.Name
			}
			return err
		})
		if got != c.want || c.err != "" && (err == nil || err.Error() != c.err) {
			t.Errorf("with eth0 down and lo %s: %q, %v; want %q, %s", c.lo, got, err, c.want, c.err)
		}
	}
}

func TestSendingAndReadingAllocateNothing(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	for _, group := range []netip.AddrPort{group4, group6} {
		r := listener(t, l, "c1", group, Options{})
		for _, way := range ways {
			s := sender(t, l, "s1", group, Options{NoGSO: !way.gso})
			s.bulk.batch = way.batch
			var train Segments
			m := NewMessage()
			var datagrams [][]byte
			header, payload := make([]byte, 40), make([]byte, 1400)
			if n := testing.AllocsPerRun(100, func() {
				train.Reset()
				for range 10 {
					train.Add(header, payload)
				}
				if err := s.SendSegments(group, &train); err != nil {
					t.Fatal(err)
				}
				if err := s.Send(group, header); err != nil {
					t.Fatal(err)
				}
				for got := 0; got < 11; {
					if _, err := r.Read(m); err != nil {
						t.Fatalf("%v, %s: after %d datagrams: %v; %d dropped", group, way.name, got, err, r.Drops())
					}
					datagrams = m.Segments(datagrams[:0])
					got += len(datagrams)
				}
			}); n != 0 {
				t.Errorf("%v, %s: %v allocations a train", group, way.name, n)
			}
		}
	}
}

func TestAReadBufferThatTheKernelLimitsIsLogged(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	log, text := memory()
	listener(t, l, "s1", group4, Options{Log: log})
	if text.Len() != 0 {
		t.Errorf("with the default granted: %s", text)
	}
	// Without CAP_NET_ADMIN the system's limit counts.
	const most = 1 << 30
	err := l.Do("s1", func() error {
		ifaces, err := Interfaces("eth0", group4.Addr())
		if err != nil {
			return err
		}
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // pid 0 is this thread
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		c, err := ListenGroup(group4, ifaces, Options{ReadBuffer: most, Log: log})
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(text.String(), "net.core.rmem_max"); n != 1 {
		t.Errorf("logged %d times, want once: %s", n, text)
	}
}

func TestWhatIsIgnoredIsNotHeard(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	for _, group := range []netip.AddrPort{group4, group6} {
		r := listener(t, l, "s1", group, Options{})
		self := sender(t, l, "s1", group, Options{})
		port := self.LocalAddr().Port()
		samePort := on(t, l, "c1", group, func(i Interface) (*Conn, error) { return ListenUnicast(i, port, Options{}) })
		sameAddr := sender(t, l, "s1", group, Options{})
		if err := r.Ignore(self.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		m := NewMessage()
		for _, other := range []*Conn{samePort, sameAddr} {
			var train Segments
			fill(&train, rand.New(rand.NewPCG(1, 1)), sizes(46, 1440, 800))
			if err := self.SendSegments(group, &train); err != nil {
				t.Fatal(err)
			}
			if err := other.Send(group, []byte("other")); err != nil {
				t.Fatal(err)
			}
			expect(t, r, m, other.LocalAddr(), [][]byte{[]byte("other")})
		}
	}
}

func TestWhatWaitsInTheSocketTellsWhenItArrived(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	const skew = time.Millisecond // between two readings of the clock of the day and of the monotonic one
	for _, group := range []netip.AddrPort{group4, group6} {
		r := listener(t, l, "c1", group, Options{})
		s := sender(t, l, "s1", group, Options{})
		sent := time.Now()
		if err := s.Send(group, []byte("late")); err != nil {
			t.Fatal(err)
		}
		if err := r.raw.Control(func(fd uintptr) {
			if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds())); n != 1 {
				t.Fatalf("nothing arrived: %v", err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		for time.Since(before) < 10*skew {
		}
		m := NewMessage()
		if _, err := r.Read(m); err != nil {
			t.Fatal(err)
		}
		if m.Arrived.Before(sent.Add(-skew)) || m.Arrived.After(before.Add(skew)) {
			t.Errorf("%v: arrived %v after it was sent, and %v after it was there", group, m.Arrived.Sub(sent), m.Arrived.Sub(before))
		}
	}
}
