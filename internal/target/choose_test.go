package target

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/mcast"
)

// found is an image that differs from another one if content does.
func found(server uint16, name string, revision uint64, content byte) mcast.Found {
	return mcast.Found{Server: server, Descriptor: image.Descriptor{
		Name: name, Revision: revision, Size: 1 << 20, BlockSize: image.DefaultBlockSize, Root: image.Hash{content},
	}}
}

func idOf(content byte) string { return found(1, "x", 1, content).Descriptor.ID().String() }

func TestChoose(t *testing.T) {
	room := []mcast.Found{
		found(7, "debian", 2, 'b'), found(7, "debian", 1, 'a'), found(9, "debian", 2, 'b'), found(7, "films", 1, 'f'),
		found(9, "other-name", 4, 'b'),
	}
	lone := []mcast.Found{found(7, "debian", 1, 'a'), found(8, "debian", 2, 'b')}
	torn := []mcast.Found{found(7, "debian", 2, 'a'), found(8, "debian", 2, 'b'), found(8, "debian", 1, 'c')}
	for _, c := range []struct {
		rule    string
		in      []mcast.Found
		want    string
		name    string // chosen, with revision and servers
		rev     uint64
		servers []uint16
		err     []string // or all of these in the error
	}{
		{rule: "the newest revision by default", in: room, want: "debian", name: "debian", rev: 2, servers: []uint16{7, 9}},
		{rule: "the revision asked for", in: room, want: "debian@1", name: "debian", rev: 1, servers: []uint16{7}},
		{rule: "an id under whatever name", in: room, want: idOf('b'), name: "debian", rev: 2, servers: []uint16{7, 9}},
		{rule: "no name: the one image, newest revision", in: lone, want: "dnbd://239.0.0.1/", name: "debian", rev: 2, servers: []uint16{8}},
		{
			rule: "no name and several images", in: room, want: "dnbd://239.0.0.1/",
			err: []string{"several images", "debian@2", "debian@1", "films@1", "servers 7, 9", idOf('f')},
		},
		{rule: "no such name", in: room, want: "ubuntu", err: []string{"no server offers image ubuntu", "239.0.0.1:10810", "films@1"}},
		{rule: "no such revision", in: room, want: "debian@3", err: []string{"debian revision 3", "debian@2"}},
		{rule: "no such id", in: room, want: someID, err: []string{someID, "debian@2"}},
		{rule: "nothing at all", in: nil, want: "debian", err: []string{"no server offers image debian"}},
		{
			rule: "two images under one name and revision", in: torn, want: "debian",
			err: []string{"different images", "debian revision 2", idOf('a'), "server 7", idOf('b'), "server 8", "by its id"},
		},
		{rule: "the same, but another revision is wanted", in: torn, want: "debian@1", name: "debian", rev: 1, servers: []uint16{8}},
		{rule: "the same, by id", in: torn, want: idOf('b'), name: "debian", rev: 2, servers: []uint16{8}},
	} {
		target, err := Parse(c.want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := target.Choose(c.in)
		if len(c.err) > 0 {
			var choice *Choice
			if !errors.As(err, &choice) || choice.Target != target {
				t.Errorf("%s: %+v, %v, want a *Choice", c.rule, got, err)
				continue
			}
			if none := strings.HasPrefix(err.Error(), "no server offers"); choice.Ambiguous == none {
				t.Errorf("%s: Ambiguous is %v", c.rule, choice.Ambiguous)
			}
			for _, want := range c.err {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %q is not in: %v", c.rule, want, err)
				}
			}
			continue
		}
		if err != nil || got.Descriptor.Name != c.name || got.Descriptor.Revision != c.rev || !slices.Equal(got.Servers, c.servers) {
			t.Errorf("%s: %+v, %v", c.rule, got, err)
		}
	}
}

func TestOffersAreMergedAndSorted(t *testing.T) {
	got := Offers([]mcast.Found{
		found(9, "b", 1, 'x'), found(7, "b", 2, 'y'), found(7, "b", 1, 'x'), found(7, "b", 1, 'x'), found(7, "a", 5, 'x'),
	})
	var b strings.Builder
	for _, o := range got {
		b.WriteString(lines([]Offer{o}))
	}
	want := "\n  a@5  id " + idOf('x') + "  from server 7" +
		"\n  b@2  id " + idOf('y') + "  from server 7" +
		"\n  b@1  id " + idOf('x') + "  from servers 7, 9"
	if b.String() != want {
		t.Errorf("got%s\nwant%s", b.String(), want)
	}
}
