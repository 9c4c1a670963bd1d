//go:build linux

package e2e

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/internal/wire"
)

// groupKey makes a file with a new group key.
func (r *rig) groupKey(name string) string {
	r.t.Helper()
	path := r.path(name)
	if out, err := exec.Command(shared.binary, "key", "new", path).CombinedOutput(); err != nil {
		r.t.Fatalf("dnbd key new: %v: %s", err, out)
	}
	return path
}

// plaintext returns an image of blocks that all hold a text that is easy to find.
func plaintext(t *testing.T, size int) string {
	t.Helper()
	return medium(t, "plaintext", func(path string) error {
		var b bytes.Buffer
		for n := 0; b.Len() < size; n++ {
			fmt.Fprintf(&b, "this is known plaintext, line %d\n", n)
		}
		return os.WriteFile(path, b.Bytes()[:size], 0o644)
	})
}

func TestAListenerWithoutTheKeyLearnsNothing(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{false, true} {
		t.Run(fmt.Sprintf("sealed=%v", sealed), func(t *testing.T) {
			r := newRig(t, lab.Options{Clients: 1, ServerRate: 200e6})
			image := plaintext(t, 4*mib)
			var flags []string
			if sealed {
				flags = []string{"--group-key", r.groupKey("key")}
			}
			var l struct{ Images []struct{ ID string } }
			r.serve("s1", append(flags, "hidden-name="+image)...)
			if err := json.Unmarshal([]byte(r.dnbd("c1", append(flags, "list", "--json")...).succeed()), &l); err != nil || len(l.Images) != 1 {
				t.Fatalf("list: %v, %+v", err, l)
			}
			id, err := hex.DecodeString(l.Images[0].ID)
			if err != nil {
				t.Fatal(err)
			}
			needles := map[string][]byte{"the name": []byte("hidden-name"), "the bytes": []byte("known plaintext"), "the image's id": id[:8]}
			found, packets, datagrams := map[string]int{}, 0, map[byte]int{}
			end := r.tap("s1", true, func(ip []byte) {
				packets++
				for what, needle := range needles {
					if bytes.Contains(ip, needle) {
						found[what]++
					}
				}
				data, from, to := datagramOf(ip)
				if len(data) < 4 || from != wire.Port && to != wire.Port {
					return
				}
				datagrams[data[3]]++
				if bytes.Equal(ip[16:20], []byte{239, 0, id[0], id[1]}) {
					found["the id in the group's address"]++
				}
			})
			r.dnbd("c1", append(flags, "list")...).succeed()
			r.dnbd("c1", append(flags, "copy", "hidden-name", r.path("copy"))...).succeed()
			end()
			if err := compare(r.path("copy"), image); err != nil {
				t.Error(err)
			}
			t.Logf("%d packets; types %v; found %v", packets, datagrams, found)
			if sealed && (len(found) > 0 || len(datagrams) != 2 || datagrams[8] < 50 || datagrams[9] < 3) {
				t.Errorf("a listener found %v; types %v, want 8 and 9 alone", found, datagrams)
			}
			// The same search finds all of it where there is no key.
			if !sealed && len(found) != len(needles)+1 {
				t.Errorf("without a key only %v was found", found)
			}
		})
	}
}

// unopened is what a process did not let in.
type unopened struct{ Foreign, Plain, Forged, Replayed int }

// unopened asks the processes of the rig.
func (r *rig) unopened() (server, attachment unopened) {
	r.t.Helper()
	var m struct {
		Attachments []struct {
			Attachment struct{ Traffic struct{ Unopened unopened } }
		}
		Servers []struct {
			Server struct{ Links []struct{ Unopened unopened } }
		}
	}
	out := r.dnbd("c1", "status", "--json").succeed()
	if err := json.Unmarshal([]byte(out), &m); err != nil || len(m.Attachments) != 1 || len(m.Servers) != 1 {
		r.t.Fatalf("status: %v: %s", err, out)
	}
	return m.Servers[0].Server.Links[0].Unopened, m.Attachments[0].Attachment.Traffic.Unopened
}

// TestReplayedAndForgedDatagramsAreRefused sends everything that the server and a reader say once more, and with a byte changed, in
// their names.
func TestReplayedAndForgedDatagramsAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 2, ServerRate: 50e6})
	if err := r.lab.GSO("s1", false); err != nil { // a packet for each datagram
		t.Fatal(err)
	}
	image, key := film(t, 16*mib), r.groupKey("key")
	r.serve("s1", "--group-key", key, image)
	again := r.replayer("c2")
	packets := make(chan []byte, 1<<16)
	hear := func(ip []byte) {
		if data, _, _ := datagramOf(ip); len(data) > 0 && len(ip) <= 1500 {
			select {
			case packets <- bytes.Clone(ip):
			default: // too many to repeat all
			}
		}
	}
	ends := []func(){r.tap("s1", false, hear), r.tap("c1", false, hear)}
	sending := inBackground(func() error {
		for ip := range packets {
			again.send(t, ip)
			ip[28+again.sent%(len(ip)-28)] ^= 1 << (again.sent % 8)
			again.send(t, ip)
		}
		return nil
	})
	a := r.attach("c1", "film16384", "--group-key", key)
	if err := compare(a.device, image); err != nil {
		t.Error(err)
	}
	for _, end := range ends {
		end()
	}
	close(packets)
	if err := sending.wait(); err != nil {
		t.Error(err)
	}
	server, client := r.unopened()
	t.Logf("%d packets were sent again; the server refused %+v, the client %+v", again.sent, server, client)
	for who, n := range map[string]unopened{"server": server, "client": client} {
		if n.Replayed == 0 || n.Forged == 0 {
			t.Errorf("the %s refused nothing: the replays did not reach it", who)
		}
	}
	var m machine
	if err := json.Unmarshal([]byte(r.dnbd("c1", "status", "--json", a.device).succeed()), &m); err != nil {
		t.Fatal(err)
	}
	if n := *m.Attachments[0].Attachment.Traffic.Refused; n > 0 {
		t.Errorf("%d blocks with wrong bytes came as far as the check", n)
	}
}

func TestAWrongOrMissingKeyIsToldInWords(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Servers: 2, Clients: 1})
	image, key, other := film(t, mib), r.groupKey("key"), r.groupKey("other")
	r.serve("s1", "--group-key", key, image)
	r.serve("s2", "--group", "239.0.0.2", image)
	for _, c := range []struct {
		name string
		args []string
		says string
	}{
		{"no key", []string{"copy", "film1024", "null:"}, "name the file that holds it with --group-key"},
		{"another key", []string{"copy", "--group-key", other, "film1024", "null:"}, "heard sealed datagrams that this key does not open"},
		{"a key that the server has not", []string{"copy", "--group-key", key, "dnbd://239.0.0.2/film1024", "null:"}, "not sealed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := r.dnbd("c1", c.args...)
			p.await(p.err, c.says)
			p.signal(15)
			p.fail(1)
		})
	}
	said := r.dnbd("c1", "list", "--group-key", other).fail(1)
	if !strings.Contains(said, "this key does not open") {
		t.Errorf("list says %s", said)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if said := r.dnbd("c1", "list", "--group-key", key).fail(1); !strings.Contains(said, "chmod 600 "+key) {
		t.Errorf("of a key that all may read list says %s", said)
	}
}

// TestKeysChangeWhileImagesAreRead gives one machine after another the next file of keys: first with another key added, then with
// that one first, then without the old one. Nobody notices.
func TestKeysChangeWhileImagesAreRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 2, ServerRate: 20e6})
	image := film(t, 16*mib) // 7 s at that rate
	first := r.groupKey("first")
	old, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	both := r.path("both")
	copyFile(t, first, both)
	if err := os.Chmod(both, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(shared.binary, "key", "new", "--add", both).CombinedOutput(); err != nil {
		t.Fatalf("dnbd key new --add: %v: %s", err, out)
	}
	text, err := os.ReadFile(both)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n") // a comment, two keys, nothing
	files := []string{string(text), lines[2] + lines[1], lines[2]}

	keys := map[string]string{}
	give := func(host, text string) {
		t.Helper()
		if keys[host] == "" {
			keys[host] = filepath.Join(r.dir, host+".key")
		}
		next := keys[host] + ".next"
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, keys[host]); err != nil {
			t.Fatal(err)
		}
	}
	for _, host := range []string{"s1", "c1", "c2"} {
		give(host, string(old))
	}
	server := r.serve("s1", "--group-key", keys["s1"], image)
	a := r.attach("c1", "film16384", "--group-key", keys["c1"])
	c := r.dnbd("c2", "copy", "--verbose", "--group-key", keys["c2"], "film16384", r.path("copy"))
	read := inBackground(func() error { return compare(a.device, image) })
	for i, text := range files {
		for _, p := range []struct {
			host string
			*process
		}{{"s1", server}, {"c1", a.process}, {"c2", c}} {
			give(p.host, text)
			if !p.err.await(patience, func(s string) bool { return strings.Count(s, "the group's keys changed") > i }) {
				t.Fatalf("%s has not taken the keys: %s", p.what, p.err)
			}
		}
	}
	select {
	case <-c.done:
		t.Error("the copy was over before the keys had changed")
	default:
	}
	c.succeed()
	if err := compare(r.path("copy"), image); err != nil {
		t.Error(err)
	}
	if err := read.wait(); err != nil {
		t.Error(err)
	}
	s, cl := r.unopened()
	if s != (unopened{}) || cl != (unopened{}) {
		t.Errorf("the server refused %+v, the client %+v, want nothing", s, cl)
	}
	// The old key is of no use any more.
	p := r.dnbd("c2", "copy", "--group-key", first, "film16384", "null:")
	p.await(p.err, "this key does not open")
	p.signal(15)
	p.fail(1)
}

// TestAServerWithAKeyDoesNotSendClientsToNBDInTheClear: what is sealed in the group would be read there by whoever listens.
func TestAServerWithAKeyDoesNotSendClientsToNBDInTheClear(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Clients: 1})
	if err := r.lab.Deafen("c1"); err != nil {
		t.Fatal(err)
	}
	image, key := film(t, mib), r.groupKey("key")
	s := r.serve("s1", "--nbd", ":10809", "--group-key", key, image)
	s.await(s.err, "NBD clients are served without encryption")
	p := r.dnbd("c1", "copy", "--group-key", key, "film1024", "null:")
	p.await(p.err, "it has no NBD port that could be read from")
	p.signal(15)
	p.fail(1)
}

func TestAGroupWithAKeyWorksWherePacketsAreSmallAndWhereTheyAreLarge(t *testing.T) {
	t.Parallel()
	for _, mtu := range []int{1280, 9000} {
		for _, group := range []string{"239.0.0.1", "[ff15::1]"} {
			t.Run(fmt.Sprint(group, " over ", mtu), func(t *testing.T) {
				r := newRig(t, lab.Options{Clients: 1, MTU: mtu})
				image, key := film(t, mib), r.groupKey("key")
				r.serve("s1", "--group-key", key, "--group", group, image)
				r.dnbd("c1", "copy", "--group-key", key, "dnbd://"+group+"/film1024", r.path("copy")).succeed()
				if err := compare(r.path("copy"), image); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
