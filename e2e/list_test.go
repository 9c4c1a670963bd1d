//go:build linux

package e2e

import (
	"encoding/json"
	"net/netip"
	"slices"
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
