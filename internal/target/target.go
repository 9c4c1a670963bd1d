// Package target reads how people name an image, and picks that image from what a group offers.
package target

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/wire"
)

// Scheme starts a target that names its group.
const Scheme = "dnbd://"

// Forms is every way to write a target, for usage texts and errors.
const Forms = "dnbd://GROUP[:PORT]/NAME[@REVISION], dnbd://GROUP[:PORT]/ID, dnbd://GROUP[:PORT]/, NAME[@REVISION] or ID"

// maxRevision is the largest revision that the protocol can carry: 48 bits.
const maxRevision = 1<<48 - 1

// Target names an image that a group offers: by its id, by its name, or as the only one there is.
type Target struct {
	// Group is the multicast address and UDP port to ask at. It is not checked to be a multicast address.
	Group netip.AddrPort
	// Name is the image's name; empty with ID, and for the one image that the group offers.
	Name string
	// Revision is the revision of Name; 0 is the newest.
	Revision uint64
	// ID is the image's id; zero when it is named otherwise.
	ID image.ID
	// Hosts are where to ask in place of a group, in words; Parse leaves it empty.
	Hosts string
}

// Pinned says whether t names one revision, and not the newest.
func (t Target) Pinned() bool { return t.Revision != 0 || t.ID != image.ID{} }

// DefaultGroup is the group of a target that names none.
func DefaultGroup() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 0, 0, 1}), wire.Port)
}

// Parse reads a target in one of Forms. An IPv6 group is written in brackets: dnbd://[ff15::1]/debian-12; a zone is
// written as it is, [ff12::1%eth0], or as in a URL, [ff12::1%25eth0].
func Parse(s string) (Target, error) {
	t, err := parse(s)
	if err != nil {
		return Target{}, fmt.Errorf("image %.200q: %w", s, err)
	}
	return t, nil
}

func parse(s string) (Target, error) {
	rest, isURI := cutScheme(s)
	if !isURI {
		if i := strings.Index(rest, "://"); i >= 0 {
			return Target{}, fmt.Errorf("unknown scheme %q; an image is %s", rest[:i], Forms)
		}
		if rest == "" {
			return Target{}, fmt.Errorf("it is empty; an image is %s", Forms)
		}
		return parseImage(DefaultGroup(), rest)
	}
	host, path, _ := strings.Cut(rest, "/")
	if host == "" {
		return Target{}, errors.New("no group after dnbd://; write for example dnbd://239.0.0.1/NAME")
	}
	group, err := parseAddr(host)
	if err != nil {
		return Target{}, err
	}
	if path == "" {
		return Target{Group: group}, nil
	}
	return parseImage(group, path)
}

// parseImage reads what stands behind the group: NAME, NAME@REVISION or ID.
func parseImage(group netip.AddrPort, s string) (Target, error) {
	if id, err := image.ParseID(s); err == nil {
		return Target{Group: group, ID: id}, nil
	}
	name, revision, found := strings.Cut(s, "@")
	t := Target{Group: group, Name: name}
	if err := checkName(name); err != nil {
		return Target{}, err
	}
	if !found {
		return t, nil
	}
	var err error
	if t.Revision, err = strconv.ParseUint(revision, 10, 64); err != nil || t.Revision == 0 || t.Revision > maxRevision {
		return Target{}, fmt.Errorf("revision %q is not a number from 1 to %d", revision, uint64(maxRevision))
	}
	return t, nil
}

// checkName asks the image package, which alone knows what a name may be.
func checkName(name string) error {
	return image.Descriptor{Name: name, Revision: 1, Size: 1, BlockSize: image.DefaultBlockSize}.Validate()
}

// ParseGroup reads a group as it stands in a flag or in front of an image: ADDR, ADDR:PORT, [ADDR]:PORT, or the same as
// dnbd://GROUP[:PORT]/. An empty string is the default group. It does not check that the address is a multicast one.
func ParseGroup(s string) (netip.AddrPort, error) {
	rest, isURI := cutScheme(s)
	if isURI {
		host, path, _ := strings.Cut(rest, "/")
		if path != "" {
			return netip.AddrPort{}, fmt.Errorf("group %.200q: it names an image; leave out %q", s, path)
		}
		rest = host
	}
	if rest == "" && !isURI {
		return DefaultGroup(), nil
	}
	group, err := parseAddr(rest)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("group %.200q: %w", s, err)
	}
	return group, nil
}

// parseAddr reads ADDR[:PORT]; an IPv6 address may stand without brackets when there is no port.
func parseAddr(s string) (netip.AddrPort, error) {
	if strings.HasPrefix(s, "[") {
		s = strings.Replace(s, "%25", "%", 1)
	}
	if p, err := netip.ParseAddrPort(s); err == nil {
		if p.Port() == 0 {
			return netip.AddrPort{}, errors.New("port 0 is none; leave it out for the default")
		}
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()), nil
	}
	bare := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		bare = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(bare)
	if err != nil || a.Is4() && bare != s {
		return netip.AddrPort{}, fmt.Errorf("%q is not ADDRESS or ADDRESS:PORT, such as 239.0.0.1, 239.0.0.1:%d or [ff15::1]:%d",
			s, wire.Port, wire.Port)
	}
	return netip.AddrPortFrom(a.Unmap(), wire.Port), nil
}

// cutScheme removes Scheme, in upper or lower case, from the front of s.
func cutScheme(s string) (rest string, found bool) {
	if len(s) >= len(Scheme) && strings.EqualFold(s[:len(Scheme)], Scheme) {
		return s[len(Scheme):], true
	}
	return s, false
}

// place says in words where the image is looked for.
func (t Target) place() string {
	if t.Hosts != "" {
		return "at " + t.Hosts
	}
	return "in group " + t.Group.String()
}

// sample writes how the image could be named by its name or id.
func (t Target) sample(name string) string {
	if t.Hosts != "" {
		return name
	}
	return GroupURI(t.Group) + name
}

// String writes the target as a URI with its group, that Parse reads back. The port is left out when it is the usual one. With Hosts it
// is in words.
func (t Target) String() string {
	switch {
	case t.Hosts != "":
		return t.What() + " " + t.place()
	case t.ID != image.ID{}:
		return GroupURI(t.Group) + t.ID.String()
	case t.Revision != 0:
		return fmt.Sprintf("%s%s@%d", GroupURI(t.Group), t.Name, t.Revision)
	}
	return GroupURI(t.Group) + t.Name
}

// GroupURI writes a group as dnbd://GROUP[:PORT]/.
func GroupURI(group netip.AddrPort) string {
	host := group.Addr().String()
	if group.Addr().Is6() {
		// RFC 6874: the % of a zone is written %25 in a URI.
		host = "[" + strings.Replace(host, "%", "%25", 1) + "]"
	}
	if group.Port() != wire.Port {
		host += ":" + strconv.Itoa(int(group.Port()))
	}
	return Scheme + host + "/"
}

// What says in words what is asked for: "image debian-12 revision 3", "image 6f1c…", "an image".
func (t Target) What() string {
	switch {
	case t.ID != image.ID{}:
		return "image " + t.ID.String()
	case t.Revision != 0:
		return fmt.Sprintf("image %s revision %d", t.Name, t.Revision)
	case t.Name != "":
		return "image " + t.Name
	}
	return "an image"
}
