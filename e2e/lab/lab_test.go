//go:build linux

package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"golang.org/x/sys/unix"
)

// listen opens a UDP socket on a host.
func listen(t *testing.T, l *lab.Lab, host string, addr netip.Addr) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := l.Do(host, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 4000)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// count sends n datagrams from one socket to another and returns how many arrived.
func count(t *testing.T, from, to *net.UDPConn, n int) int {
	t.Helper()
	dst := to.LocalAddr().(*net.UDPAddr).AddrPort()
	for range n {
		if _, err := from.WriteToUDPAddrPort(make([]byte, 100), dst); err != nil {
			t.Fatal(err)
		}
	}
	// The network delivers in order and within moments, so a silent tenth of a second is the end; a late datagram
	// could only make a loss look larger than it is.
	got := 0
	for buf := make([]byte, 200); ; got++ {
		to.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := to.Read(buf); errors.Is(err, os.ErrDeadlineExceeded) {
			return got
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestHostsReachEachOtherByIPv4AndIPv6(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Servers: 2, Clients: 2})
	for _, addr := range []func(string) netip.Addr{l.Addr, l.Addr6} {
		s := listen(t, l, "s2", addr("s2"))
		c := listen(t, l, "c2", addr("c2"))
		if got := count(t, s, c, 10); got != 10 {
			t.Errorf("%d of 10 datagrams from %v reached %v", got, s.LocalAddr(), c.LocalAddr())
		}
		s.Close()
		c.Close()
	}
}

func TestAHundredHostsAreUpAndGone(t *testing.T) {
	start := time.Now()
	l := lab.ForTest(t, lab.Options{Clients: 100, ServerRate: 100e6, ClientRate: 50e6})
	t.Logf("up after %.1f s", time.Since(start).Seconds())
	s, c := listen(t, l, "s1", l.Addr("s1")), listen(t, l, "c100", l.Addr("c100"))
	if got := count(t, s, c, 10); got != 10 {
		t.Errorf("%d of 10 datagrams reached c100", got)
	}
	s.Close()
	c.Close()
	start = time.Now()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("gone after %.1f s", time.Since(start).Seconds())
	if left, _ := filepath.Glob(l.Namespace("*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCloseKillsWhatRunsInTheLab(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	cmd := l.Command(context.Background(), "c1", "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Once it echoes, it is in its namespace.
	in.Write([]byte("x"))
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the process ended with %v, want it killed", err)
	}
}

func TestLossAndBlockAffectOneHostUntilCleared(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 2})
	s := listen(t, l, "s1", l.Addr("s1"))
	c1 := listen(t, l, "c1", l.Addr("c1"))
	c2 := listen(t, l, "c2", l.Addr("c2"))
	const n = 200 // fits the default receive buffer
	for _, step := range []struct {
		name     string
		do       func() error
		min, max int // received by c1
	}{
		{"at first", func() error { return nil }, n, n},
		// 100 are expected, with a standard deviation of 7.
		{"loss", func() error { return l.Loss("c1", 50) }, 40, 160},
		{"all lost", func() error { return l.Loss("c1", 100) }, 0, 0},
		{"loss in rows", func() error { return l.LossInRows("c1", 8, 80) }, n - 3*8, n - 3*8}, // the first of each 80
		{"loss cleared", func() error { return l.ClearLoss("c1") }, n, n},
		{"blocked", func() error { return l.Block("c1") }, 0, 0},
		{"unblocked", func() error { return l.Unblock("c1") }, n, n},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := count(t, s, c1, n); got < step.min || got > step.max {
			t.Errorf("%s: c1 received %d of %d, want %d to %d", step.name, got, n, step.min, step.max)
		}
		if got := count(t, s, c2, n); got != n {
			t.Errorf("%s: c2 received %d of %d", step.name, got, n)
		}
	}
}

func TestBytesAreThoseOfWholeFrames(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1})
	s, c := listen(t, l, "s1", l.Addr("s1")), listen(t, l, "c1", l.Addr("c1"))
	count(t, s, c, 1) // resolves the address
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, segments := range []int{1, 10} { // datagrams that leave as one packet, by segmentation offload
		if segments > 1 {
			if err := raw.Control(func(fd uintptr) {
				if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 100); err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		tx, err := l.TxBytes("s1")
		if err != nil {
			t.Fatal(err)
		}
		rx, err := l.RxBytes("c1")
		if err != nil {
			t.Fatal(err)
		}
		for range 100 / segments {
			if _, err := s.WriteTo(make([]byte, segments*100), c.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		if got := count(t, s, c, 0); got != 100 {
			t.Errorf("%d of 100 datagrams arrived", got)
		}
		txAfter, _ := l.TxBytes("s1")
		rxAfter, _ := l.RxBytes("c1")
		// 14 bytes of Ethernet, 20 of IPv4, 8 of UDP; a few frames of neighbour and group upkeep may come between.
		const want = 100 * (14 + 20 + 8 + 100)
		for name, got := range map[string]int64{"sent by s1": txAfter - tx, "sent to c1": rxAfter - rx} {
			if got < want || got > want+1000 {
				t.Errorf("%d datagrams a packet, %s: %d bytes, want %d", segments, name, got, want)
			}
		}
	}
}

func TestRatesCanBeSetChangedAndLifted(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1, ServerRate: 1e6})
	for _, rate := range []int64{2e6, 0, 0, 1e6} {
		if err := l.SetRate("s1", rate); err != nil {
			t.Error(err)
		}
		if err := l.SetDownRate("c1", rate); err != nil {
			t.Error(err)
		}
		out, err := l.Command(t.Context(), "s1", "tc", "class", "show", "dev", "eth0").Output()
		if err != nil {
			t.Fatal(err)
		}
		want := map[int64]string{2e6: "rate 2Mbit", 1e6: "rate 1Mbit"}[rate]
		if !bytes.Contains(out, []byte(want)) || (rate == 0) != (len(out) == 0) {
			t.Errorf("at rate %d the classes are %q, want %q", rate, out, want)
		}
	}
}

func TestUnknownHostsAreErrorsThatSayWhichThereAre(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 3})
	for name, err := range map[string]error{
		"Loss":         l.Loss("c4", 1),
		"LossInRows":   l.LossInRows("c4", 8, 80),
		"Block":        l.Block("c4"),
		"SetRate":      l.SetRate("c4", 1),
		"SetDownQueue": l.SetDownQueue("c4", 1),
		"GSO":          l.GSO("c4", true),
	} {
		if err == nil || !strings.Contains(err.Error(), "no host c4") {
			t.Errorf("%s(c4) = %v", name, err)
		}
	}
}

func TestTheSwitchSendsAGroupOnlyToItsMembers(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 2})
	for _, group := range []string{"239.0.0.7", "ff15::7"} {
		dst := netip.MustParseAddrPort(net.JoinHostPort(group, "4000"))
		addr := l.Addr
		if dst.Addr().Is6() {
			addr = l.Addr6
		}
		var member *net.UDPConn
		err := l.Do("c1", func() error {
			eth0, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			member, err = net.ListenMulticastUDP("udp", eth0, net.UDPAddrFromAddrPort(dst))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer member.Close()
		if err := l.AwaitMember(t.Context(), "c1", dst.Addr()); err != nil {
			t.Fatal(err)
		}
		s := listen(t, l, "s1", addr("s1"))
		// The switch floods until it has waited for answers to its first query.
		const n, size = 10, 1000
		for deadline := time.Now().Add(10 * time.Second); ; {
			before, err := l.RxBytes("c2")
			if err != nil {
				t.Fatal(err)
			}
			for range n {
				if _, err := s.WriteToUDPAddrPort(make([]byte, size), dst); err != nil {
					t.Fatal(err)
				}
				member.SetReadDeadline(deadline)
				if _, err := member.Read(make([]byte, 2*size)); err != nil {
					t.Fatalf("the member of %s: %v", group, err)
				}
			}
			after, err := l.RxBytes("c2")
			if err != nil {
				t.Fatal(err)
			}
			if after-before < n*size {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("c2 is not a member of %s and is still sent it", group)
			}
		}
		s.Close()
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.AwaitMember(soon, "c2", netip.MustParseAddr("239.0.0.7")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("AwaitMember of a host that is none = %v", err)
	}
}

func TestLabsOfDeadProcessesAreRemoved(t *testing.T) {
	lab.ForTest(t, lab.Options{}) // or skip
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	names := []string{fmt.Sprintf("dnbd-%d-1-sw", dead.Process.Pid), fmt.Sprintf("dnbd-%d-1-c1", dead.Process.Pid)}
	for _, name := range names {
		if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	lab.ForTest(t, lab.Options{})
	for _, name := range names {
		if _, err := os.Lstat("/run/netns/" + name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", name, err)
		}
	}
}

func TestAPortForAVirtualMachineIsShapedAndCountedAtTheSwitch(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Clients: 1, VMs: 2})
	if vms, clients := fmt.Sprint(l.VMs()), fmt.Sprint(l.Clients()); vms != "[v1 v2]" || clients != "[c1]" {
		t.Errorf("the lab has the virtual machines %s and the clients %s", vms, clients)
	}
	if l.MAC("v1").String() == l.MAC("v2").String() || l.MAC("v1")[0]&1 != 0 {
		t.Errorf("MACs are %v and %v: want two that are not of groups", l.MAC("v1"), l.MAC("v2"))
	}
	err := l.Do(lab.Switch, func() error {
		_, err := net.InterfaceByName("v2")
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := l.SetDownRate("v1", 1e6); err != nil {
		t.Error(err)
	}
	if _, err := l.RxBytes("v1"); err != nil {
		t.Error(err)
	}
	if _, err := l.TxBytes("v1"); err == nil {
		t.Error("the lab has counted what a virtual machine sends")
	}
}
