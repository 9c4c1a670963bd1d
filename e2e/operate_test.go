//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// operate runs `dnbd server` on a host.
func (r *rig) operate(host, key, server string, args ...string) *process {
	r.t.Helper()
	args = append([]string{"server", "--group-key", key, r.lab.Addr(server).String()}, args...)
	return r.dnbd(host, args...)
}

func TestAnOperatorSeesTheStatusOfAServerElsewhere(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1})
	image, key := film(t, mib), r.groupKey("key")
	// More images than one datagram can tell of.
	args := []string{"--id", "7", "--group-key", key}
	for i := range 20 {
		args = append(args, fmt.Sprintf("film-%d=%s", i, r.path(fmt.Sprint("film", i))))
		copyFile(t, image, r.path(fmt.Sprint("film", i)))
	}
	r.serve("s1", args...)
	var st struct {
		Keys   []string
		Server struct {
			ID     int
			Images []struct{ Name string }
			Links  []struct{ Interface string }
		}
	}
	out := r.operate("c1", key, "s1", "status", "--json").succeed()
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if st.Server.ID != 7 || len(st.Server.Images) != 20 || len(st.Server.Links) != 1 || len(st.Keys) != 1 {
		t.Errorf("status is %+v", st)
	}
	if said := r.operate("c1", key, "s1", "status").succeed(); !strings.Contains(said, "server 7") || !strings.Contains(said, "film-19 revision 1") {
		t.Errorf("for people it is %s", said)
	}
}

func TestCommandsAreRefusedWithoutTheKey(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Servers: 2, Clients: 1})
	image, key, other := film(t, mib), r.groupKey("key"), r.groupKey("other")
	r.serve("s1", "--group-key", key, image)
	r.serve("s2", "--group", "239.0.0.2", image)
	for _, c := range []struct {
		name string
		p    *process
		code int
		says string
	}{
		{"no key", r.dnbd("c1", "server", r.lab.Addr("s1").String(), "drain"), 2, "--group-key"},
		{"another key", r.operate("c1", other, "s1", "drain"), 1, "another group key"},
		{"a server without a key", r.operate("c1", key, "s2", "drain"), 1, "the server has no group key"},
		{"no server", r.operate("c1", key, "c1", "drain"), 1, "no server listens there"},
		{"no such image", r.operate("c1", key, "s1", "withdraw", "none"), 1, "there are: film1024@1"},
		{"no such verb", r.operate("c1", key, "s1", "explode"), 2, "drain or withdraw"},
	} {
		if said := c.p.fail(c.code); !strings.Contains(said, c.says) {
			t.Errorf("%s: says %q, want %q", c.name, said, c.says)
		}
	}
	r.dnbd("c1", "copy", "--group-key", key, "film1024", "null:").succeed() // it still serves
}

// TestAReplayedCommandIsNotCarriedOut records the command to withdraw an image, and sends it again when the image is back, to the same
// server and to one that was started anew.
func TestAReplayedCommandIsNotCarriedOut(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 2})
	image, key := film(t, mib), r.groupKey("key")
	s := r.serve("s1", "--group-key", key, image)
	again := r.replayer("c2")
	recorded := make(chan []byte, 1000)
	end := r.tap("c1", false, func(ip []byte) {
		if data, _, _ := datagramOf(ip); len(data) > 0 {
			recorded <- append([]byte{}, ip...)
		}
	})
	r.operate("c1", key, "s1", "withdraw", "film1024").succeed()
	end()
	close(recorded)
	var packets [][]byte
	for ip := range recorded {
		packets = append(packets, ip)
	}
	r.operate("c1", key, "s1", "reload").succeed()
	offered := func(when string) {
		t.Helper()
		for _, ip := range packets {
			again.send(t, ip)
		}
		// Commands are taken in their order, so this one's answer comes after them.
		if out := r.operate("c1", key, "s1", "status").succeed(); strings.Contains(out, "withdrawn") {
			t.Errorf("%s: %s", when, out)
		}
	}
	if len(packets) < 2 {
		t.Fatalf("%d packets were recorded", len(packets))
	}
	offered("the same server")
	s.stop()
	r.serve("s1", "--group-key", key, image)
	offered("a new one")
}

func TestADrainedServerFinishesAndItsClientsGoOnFromAnother(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Servers: 2, Clients: 2, ServerRate: 50e6})
	image, key := film(t, 16*mib), r.groupKey("key")
	one := r.serve("s1", "--id", "1", "--group-key", key, image)
	r.serve("s2", "--id", "2", "--group-key", key, image)
	a := r.attach("c1", "film16384", "--group-key", key)
	begun := make(chan struct{})
	w := walk{after: func(off int64) {
		if off == 4*mib {
			close(begun)
		}
	}}
	read := inBackground(func() error { return w.run(a.device, image) })
	<-begun
	r.operate("c2", key, "s1", "drain").succeed()
	if err := one.wait(); err != nil {
		t.Errorf("the drained server ended with %v", err)
	}
	if err := read.wait(); err != nil {
		t.Error(err)
	}
	t.Logf("the longest read took %v", w.longest)
	if l := r.dnbd("c2", "list", "--group-key", key).succeed(); !strings.Contains(l, "  2  ") {
		t.Errorf("list has %s", l)
	}
}

func TestAWithdrawnImageIsReadFromAnotherServerAndReloadBringsItBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Servers: 2, Clients: 2, ServerRate: 50e6})
	image, key := film(t, 16*mib), r.groupKey("key")
	r.serve("s1", "--id", "1", "--group-key", key, image)
	r.serve("s2", "--id", "2", "--group-key", key, image)
	a := r.attach("c1", "film16384", "--group-key", key)
	begun, gone := make(chan struct{}), make(chan struct{})
	w := walk{after: func(off int64) {
		if off == 4*mib {
			close(begun)
			<-gone
		}
	}}
	read := inBackground(func() error { return w.run(a.device, image) })
	<-begun
	r.operate("c2", key, "s1", "withdraw", "film16384@1").succeed()
	sent := r.sent("s1")
	close(gone)
	if err := read.wait(); err != nil {
		t.Error(err)
	}
	if n := sent(); n > 2*mib { // what was on its way
		t.Errorf("the server sent %d bytes more of the image", n)
	}
	servers := func() string {
		var l struct{ Images []struct{ Servers []int } }
		out := r.dnbd("c2", "list", "--json", "--group-key", key).succeed()
		if err := json.Unmarshal([]byte(out), &l); err != nil || len(l.Images) != 1 {
			t.Fatalf("list: %v: %s", err, out)
		}
		return fmt.Sprint(l.Images[0].Servers)
	}
	if got := servers(); got != "[2]" {
		t.Errorf("it is offered by %s, want by 2 alone", got)
	}
	r.operate("c2", key, "s1", "reload").succeed()
	if got := servers(); got != "[1 2]" {
		t.Errorf("after reload it is offered by %s", got)
	}
	// A copy takes its share from the one that is back.
	sent = r.sent("s1")
	r.dnbd("c2", "copy", "--group-key", key, "film16384", r.path("copy")).succeed()
	if err := compare(r.path("copy"), image); err != nil {
		t.Error(err)
	}
	if n := sent(); n < mib {
		t.Errorf("the server that is back sent %d bytes", n)
	}
}

func TestAFileThatWasReplacedIsOfferedAfterReload(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1})
	key, path := r.groupKey("key"), r.path("disk")
	replace := func(seed uint64) {
		t.Helper()
		if err := os.WriteFile(path+".next", random(seed, mib), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".next", path); err != nil {
			t.Fatal(err)
		}
	}
	replace(1)
	s := r.serve("s1", "--group-key", key, path)
	for i, reload := range []func(){
		func() { r.operate("c1", key, "s1", "reload").succeed() },
		func() { s.signal(syscall.SIGHUP) },
	} {
		replace(uint64(i + 2))
		reload()
		s.await(s.err, fmt.Sprintf("revision=%d", i+2))
		r.dnbd("c1", "copy", "--group-key", key, fmt.Sprintf("disk@%d", i+2), r.path("copy")).succeed()
		if err := compare(r.path("copy"), path); err != nil {
			t.Errorf("revision %d: %v", i+2, err)
		}
	}
}
