//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/e2e/lab"
)

// newForgetfulRig is a rig whose switch sends no queries, and forgets members that did not answer for three seconds.
func newForgetfulRig(t *testing.T, o lab.Options) *rig {
	t.Helper()
	o.NoQuerier = true
	r := newRig(t, o)
	out, err := r.command(lab.Switch, "ip", "link", "set", "br0", "type", "bridge", "mcast_membership_interval", "300").CombinedOutput()
	if err != nil {
		t.Fatalf("ip link set br0: %v: %s", err, out)
	}
	return r
}

func TestASwitchLearnsMembersFromTheServersQueries(t *testing.T) {
	for name, c := range map[string]struct {
		group   string
		queries func(r *rig, n int)
	}{
		"IGMP": {"239.0.0.1", func(r *rig, n int) { r.queries("s1", n) }},
		"MLD":  {"ff15::d4bd", func(r *rig, n int) { r.queriesMLD("c2", n) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newForgetfulRig(t, lab.Options{Clients: 2, ServerRate: 200e6})
			image := film(t, 16*mib)
			s := r.serve("s1", "--group", c.group, "--querier=1s", image)
			s.await(s.err, "asking hosts for their memberships")
			group := netip.MustParseAddr(c.group)
			target := "dnbd://" + netip.AddrPortFrom(group, 10810).String() + "/film16384"
			// Without a querier the switch floods. It sends to members alone when the time for answers is over.
			for deadline := time.Now().Add(patience); ; {
				others := r.received("c2")
				r.dnbd("c1", "copy", target, "null:").succeed()
				n := others()
				t.Logf("while 16 MiB were sent to c1, c2 received %d KiB", n>>10)
				if n < mib {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the switch still sends to who is no member")
				}
			}
			// A membership lasts three seconds, and is still there after six queries because it was asked for again.
			a := r.attach("c1", target)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := r.lab.AwaitMember(ctx, "c1", group); err != nil {
				t.Fatal(err)
			}
			c.queries(r, 6)
			if err := compare(a.device, image); err != nil {
				t.Error(err)
			}
			// Of that group and of the image's own.
			if all, err := r.lab.Memberships("c1"); err != nil || !slices.Contains(all, group) || len(all) < 2 {
				t.Errorf("the switch knows c1 as a member of %v (%v)", all, err)
			}
			if over := a.err.String(); strings.Contains(over, "no multicast data") {
				t.Errorf("multicast did not arrive: %s", over)
			}
		})
	}
}

// queries waits for some of a host's queries, each of which is to be what RFC 9776 asks for.
func (r *rig) queries(host string, n int) {
	r.t.Helper()
	from := r.lab.Addr(host).As4()
	heard := make(chan []byte, 100)
	end := r.tap(host, false, func(ip []byte) {
		if len(ip) > 28 && ip[9] == unix.IPPROTO_IGMP && ip[24] == 0x11 && bytes.Equal(ip[12:16], from[:]) {
			heard <- bytes.Clone(ip)
		}
	})
	defer end()
	for range n {
		select {
		case q := <-heard:
			// To all hosts, by one hop, with a router alert: a general query of version 3, answers in 0.5 s, each second.
			want := []byte{0x46, 0xc0, 0, 36, 0, 0, 0, 0, 1, 2, 0, 0, from[0], from[1], from[2], from[3], 224, 0, 0, 1, 0x94, 4, 0, 0}
			want = append(want, 0x11, 5, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0)
			for _, own := range []int{4, 5, 6, 7, 10, 11, 26, 27} { // number, fragment, and the checksums
				want[own] = q[own]
			}
			if !bytes.Equal(q, want) {
				r.t.Fatalf("%s asks\n%x, want\n%x", host, q, want)
			}
			if sum(q[:24]) != 0xffff || sum(q[24:]) != 0xffff {
				r.t.Fatalf("%s asks with a wrong checksum: %x", host, q)
			}
		case <-time.After(patience):
			r.t.Fatalf("%s asks no more", host)
		}
	}
}

// queriesMLD waits for some queries that arrive at a host. The switch takes none that lack what RFC 9777 asks for.
func (r *rig) queriesMLD(host string, n int) {
	r.t.Helper()
	var conn *ipv6.PacketConn
	if err := r.lab.Do(host, func() error {
		c, err := net.ListenPacket("ip6:58", "::")
		if err == nil {
			conn = ipv6.NewPacketConn(c)
		}
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	if err := errors.Join(conn.SetControlMessage(ipv6.FlagHopLimit, true), conn.SetReadDeadline(time.Now().Add(patience))); err != nil {
		r.t.Fatal(err)
	}
	// A general query of version 2, answers in 500 ms, each second.
	want := append([]byte{130, 0, 0, 0, 500 >> 8, 500 & 0xff, 0, 0}, make([]byte, 20)...)
	want[24], want[25] = 2, 1
	buf := make([]byte, 1500)
	for n > 0 {
		l, cm, from, err := conn.ReadFrom(buf)
		if err != nil {
			r.t.Fatalf("%d queries more: %v", n, err)
		}
		if l < 28 || buf[0] != want[0] {
			continue
		}
		copy(want[2:4], buf[2:4]) // the checksum, which the kernel has looked at
		if !bytes.Equal(buf[:l], want) || cm.HopLimit != 1 {
			r.t.Fatalf("%v asks %x with hop limit %d, want %x with 1", from, buf[:l], cm.HopLimit, want)
		}
		n--
	}
}

// sum is the Internet's, of an even number of bytes: with the checksum inside it is all ones.
func sum(b []byte) (s uint32) {
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	return s>>16 + s&0xffff
}

func TestOfTwoQueriersTheLowerAddressAsksAndTheOtherFollows(t *testing.T) {
	t.Parallel()
	r := newForgetfulRig(t, lab.Options{Servers: 2, Clients: 1})
	image := film(t, mib)
	second := r.serve("s2", "--id", "2", "--querier=1s", image)
	second.await(second.err, "asking hosts for their memberships")
	r.queries("s2", 1)
	first := r.serve("s1", "--id", "1", "--querier=1s", image)
	second.await(second.err, "silent until it stops")
	r.queries("s1", 3)
	if q := r.querierOf("s2"); q.Asking || q.Other != r.lab.Addr("s1").String() || q.Protocol != "IGMP" {
		t.Errorf("the second server's status: %+v", q)
	}
	first.stop()
	second.await(second.err, "asking again")
	r.queries("s2", 1)
	if q := r.querierOf("s2"); !q.Asking || q.Other != "" {
		t.Errorf("the second server's status: %+v", q)
	}
}

// asker is what a server says of its querier.
type asker struct {
	Protocol, Other string
	Asking          bool
}

// querierOf is what the server on a host says of its querier.
func (r *rig) querierOf(host string) asker {
	r.t.Helper()
	var st struct {
		Servers []struct {
			Server struct {
				ID    int
				Links []struct{ Querier asker }
			}
		}
	}
	if err := json.Unmarshal([]byte(r.dnbd(host, "status", "--json").succeed()), &st); err != nil {
		r.t.Fatal(err)
	}
	for _, s := range st.Servers {
		if fmt.Sprint("s", s.Server.ID) == host {
			return s.Server.Links[0].Querier
		}
	}
	r.t.Fatalf("there is no server on %s", host)
	return asker{}
}

func TestAQuerierWithoutTheRightToSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	need(t, "setpriv")
	r := newRig(t, lab.Options{})
	said := r.start("s1", "setpriv", "--bounding-set=-net_raw", shared.binary, "serve", "--querier", film(t, mib)).fail(1)
	if !strings.Contains(said, "--querier") || !strings.Contains(said, "CAP_NET_RAW") || !strings.Contains(said, "eth0") {
		t.Errorf("it says %q", said)
	}
}
