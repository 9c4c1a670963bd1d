//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

func TestListShowsWhatAGroupOffersAndWhoOffersIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Servers: 2, Clients: 1})
	one, two := film(t, mib), film(t, 16*mib)
	copyFile(t, two, r.path("copy"))
	r.serve("s1", "--id", "1", one, "again="+r.path("copy"))
	r.serve("s2", "--id", "2", two)
	r.serve("s2", "--id", "9", "--group", "239.0.0.2", one) // nobody's business here

	var l struct {
		Images []struct {
			URI, Name, ID string
			Revision      int
			Size          int64
			Servers       []int
		}
		Servers []struct {
			ID      int
			Address netip.AddrPort
		}
	}
	if err := json.Unmarshal([]byte(r.dnbd("c1", "list", "--json").succeed()), &l); err != nil {
		t.Fatal(err)
	}
	var names []string
	ids := map[string]string{}
	for _, i := range l.Images {
		names = append(names, i.Name)
		ids[i.Name] = i.ID
		want := map[string][]int{"film1024": {1}, "again": {1}, "film16384": {2}}[i.Name]
		if !slices.Equal(i.Servers, want) || i.Revision != 1 {
			t.Errorf("%+v, want it from servers %v", i, want)
		}
		if got := r.dnbd("c1", "copy", i.URI, "null:"); got.wait() != nil {
			t.Errorf("copy %s fails: %s", i.URI, got.err)
		}
	}
	if want := []string{"again", "film1024", "film16384"}; !slices.Equal(names, want) {
		t.Errorf("list has %v, want %v", names, want)
	}
	if ids["again"] != ids["film16384"] {
		t.Error("equal bytes under two names have two ids")
	}
	for i, s := range l.Servers {
		if s.ID != i+1 || s.Address.Addr() != r.lab.Addr(r.lab.Servers()[i]) {
			t.Errorf("server %+v", s)
		}
	}
	if len(l.Servers) != 2 {
		t.Errorf("list has %d servers, want 2", len(l.Servers))
	}
}

// TestTheNewestRevisionIsCopied has two servers answer at once, the one with the older revision first as often as not.
func TestTheNewestRevisionIsCopied(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Servers: 2, Clients: 4})
	is := random(2, mib)
	for i, content := range [][]byte{random(1, mib), is} {
		disk := r.path(fmt.Sprintf("disk%d", i+1))
		if err := os.WriteFile(disk, content, 0o644); err != nil {
			t.Fatal(err)
		}
		r.dnbd("s1", "image", "create", "--name", "disk", "--revision", strconv.Itoa(i+1), disk).succeed()
		r.serve(r.lab.Servers()[i], "--id", strconv.Itoa(i+1), disk)
	}
	for range 3 {
		var copies []*process
		for _, host := range r.lab.Clients() {
			copies = append(copies, r.dnbd(host, "copy", "disk", r.path(host)))
		}
		for i, c := range copies {
			c.succeed()
			got, err := os.ReadFile(r.path(r.lab.Clients()[i]))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, is) {
				t.Fatal("a copy is not of the newest revision")
			}
		}
	}
}
