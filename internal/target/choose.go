package target

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/mcast"
)

// Offer is an image and the servers that have it.
type Offer struct {
	Descriptor image.Descriptor
	// Servers are the servers' ids, in ascending order, each once.
	Servers []uint16
}

// Choice is why no image could be chosen, although some were offered, or that none was.
type Choice struct {
	// Target is what was asked for.
	Target Target
	// Offers is what the group has.
	Offers []Offer
	// Ambiguous says that several images fit, rather than none.
	Ambiguous bool
	// why is the message.
	why string
}

// Error says what was found instead, and what to do.
func (c *Choice) Error() string { return c.why }

// Offers merges what the servers of a group have: one Offer for each id under each name and revision, by name, the newest
// revision first, then by id.
func Offers(found []mcast.Found) []Offer {
	type label struct {
		name     string
		revision uint64
		id       image.ID
	}
	at := map[label]int{}
	var offers []Offer
	for _, f := range found {
		l := label{f.Descriptor.Name, f.Descriptor.Revision, f.Descriptor.ID()}
		i, ok := at[l]
		if !ok {
			i = len(offers)
			at[l] = i
			offers = append(offers, Offer{Descriptor: f.Descriptor})
		}
		offers[i].Servers = append(offers[i].Servers, f.Server)
	}
	for i := range offers {
		slices.Sort(offers[i].Servers)
		offers[i].Servers = slices.Compact(offers[i].Servers)
	}
	slices.SortFunc(offers, func(a, b Offer) int {
		return cmp.Or(strings.Compare(a.Descriptor.Name, b.Descriptor.Name),
			cmp.Compare(b.Descriptor.Revision, a.Descriptor.Revision),
			strings.Compare(a.Descriptor.ID().String(), b.Descriptor.ID().String()))
	})
	return offers
}

// Choose picks the image that t names from what a group offers: that of its id; the newest revision of its name, or the one
// asked for; or, with neither, the one image there is. The error is a *Choice.
func (t Target) Choose(found []mcast.Found) (Offer, error) {
	offers := Offers(found)
	fit := slices.DeleteFunc(slices.Clone(offers), func(o Offer) bool { return !t.Names(o.Descriptor) })
	fail := func(format string, args ...any) (Offer, error) {
		return Offer{}, &Choice{Target: t, Offers: offers, Ambiguous: len(fit) > 0, why: fmt.Sprintf(format, args...)}
	}
	if len(fit) == 0 {
		if len(offers) == 0 {
			return fail("no server offers %s %s", t.What(), t.place())
		}
		return fail("no server offers %s %s; there are:%s", t.What(), t.place(), lines(offers))
	}
	if (t.ID != image.ID{}) {
		// The same bytes may be there under several names: any of them is right.
		return merge(fit), nil
	}
	if others := slices.ContainsFunc(fit, func(o Offer) bool { return o.Descriptor.Name != fit[0].Descriptor.Name }); others {
		return fail("several images are offered %s; name one of them, as in %s:%s", t.place(), t.sample(fit[0].Descriptor.Name), lines(fit))
	}
	newest := fit[0]
	same := slices.DeleteFunc(fit, func(o Offer) bool { return o.Descriptor.Revision != newest.Descriptor.Revision })
	if len(same) > 1 {
		return fail("different images are offered as %s revision %d %s; name the one you want by its id, as in %s, "+
			"and give the other one another name or revision ('dnbd image create --revision'):%s",
			newest.Descriptor.Name, newest.Descriptor.Revision, t.place(), t.sample(newest.Descriptor.ID().String()), lines(same))
	}
	return newest, nil
}

// Names says whether t may mean the image.
func (t Target) Names(d image.Descriptor) bool {
	if (t.ID != image.ID{}) {
		return d.ID() == t.ID
	}
	return (t.Name == "" || t.Name == d.Name) && (t.Revision == 0 || t.Revision == d.Revision)
}

// merge makes one offer of several of the same id.
func merge(offers []Offer) Offer {
	all := Offer{Descriptor: offers[0].Descriptor}
	for _, o := range offers {
		all.Servers = append(all.Servers, o.Servers...)
	}
	slices.Sort(all.Servers)
	all.Servers = slices.Compact(all.Servers)
	return all
}

// lines lists offers, each on a line of its own.
func lines(offers []Offer) string {
	var b strings.Builder
	for _, o := range offers {
		d := o.Descriptor
		fmt.Fprintf(&b, "\n  %s@%d  id %s  from %s", d.Name, d.Revision, d.ID(), ServerList(o.Servers))
	}
	return b.String()
}

// ServerList writes ids of servers: "server 7", "servers 7, 9".
func ServerList(ids []uint16) string {
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = strconv.Itoa(int(id))
	}
	if len(s) == 1 {
		return "server " + s[0]
	}
	return "servers " + strings.Join(s, ", ")
}
