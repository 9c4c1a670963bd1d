package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Hello asks who offers an image. A client sends it to the group, or to one server that it heard of.
type Hello struct {
	Nonce    uint64 // comes back in the Welcome
	Cookie   uint64 // of the server asked, or 0 when it is not known yet: then the answer carries no offers
	Revision uint64 // with Name: the revision wanted, 0 for any
	Want     HelloWant
	ID       [32]byte // with HelloID
	Name     string   // with HelloName, at most MaxName bytes
}

// HelloWant says by what a Hello names its image.
type HelloWant uint8

// The ways to ask.
const (
	HelloAll  HelloWant = 0 // what is there?
	HelloName HelloWant = 1 // by name, and revision if that is not 0
	HelloID   HelloWant = 2 // by image id
)

// Append appends the datagram to b.
func (h *Hello) Append(b []byte) []byte {
	b = appendPrefix(b, TypeHello)
	b = binary.BigEndian.AppendUint64(b, h.Nonce)
	b = binary.BigEndian.AppendUint64(b, h.Cookie)
	b = append(b, byte(h.Want), byte(len(h.Name)), 0, 0)
	b = binary.BigEndian.AppendUint64(b, h.Revision)
	b = append(b, h.ID[:]...)
	return append(b, h.Name...)
}

// ParseHello reads a HELLO.
func ParseHello(b []byte) (Hello, error) {
	if err := expect(b, TypeHello, helloFixed); err != nil {
		return Hello{}, err
	}
	n := int(b[21])
	if n > MaxName || HelloWant(b[20]) > HelloID {
		return Hello{}, fmt.Errorf("hello: %w", ErrValue)
	}
	if len(b) < helloFixed+n {
		return Hello{}, fmt.Errorf("hello with a name of %d bytes: %w", n, ErrLength)
	}
	return Hello{
		Nonce:    binary.BigEndian.Uint64(b[4:]),
		Cookie:   binary.BigEndian.Uint64(b[12:]),
		Want:     HelloWant(b[20]),
		Revision: binary.BigEndian.Uint64(b[24:]),
		ID:       [32]byte(b[32:64]),
		Name:     string(b[helloFixed : helloFixed+n]),
	}, nil
}

// Welcome answers a Hello. To an address that has not proved itself with the cookie it goes without offers.
type Welcome struct {
	Server uint16
	Epoch  uint32 // random at each start of the server
	Nonce  uint64 // of the Hello
	Cookie uint64 // what the client sends back to prove that it receives at its address
	NBD    uint16 // TCP port of the server's NBD exports, 0 for none
	TLS    bool   // its NBD clients have to use TLS
	Part   uint8  // the offers of a server may need several datagrams: this one's number, from 0 ...
	Parts  uint8  // ... and how many there are; 0 when no offers could be sent for want of a cookie
	Offers []Offer
}

// Offer describes one image that a server has. The image id is not on the wire: the receiver computes it.
type Offer struct {
	Handle    uint16 // the image's number in this server's datagrams of this epoch
	Algorithm uint8  // hash algorithm of the tree
	BlockLog  uint8  // log2 of the block size
	Size      uint64 // bytes
	Revision  uint64
	Created   int64 // seconds since 1970
	Root      [32]byte
	Group     netip.AddrPort // where its data is sent
	Name      string
	Signature []byte // of the image's descriptor, at most MaxSignature bytes; nil for none
}

// needsTLS is the flag of Welcome.TLS.
const needsTLS = 1

// Size is what the offer takes in a Welcome, in bytes.
func (o *Offer) wireSize() int { return offerFixed + len(o.Name) + len(o.Signature) }

// SplitOffers cuts offers into runs that fit one Welcome each.
func SplitOffers(offers []Offer) [][]Offer {
	var runs [][]Offer
	for len(offers) > 0 {
		n, size := 0, welcomeFixed
		for n < len(offers) && size+offers[n].wireSize() <= MaxControlSize {
			size += offers[n].wireSize()
			n++
		}
		runs = append(runs, offers[:n])
		offers = offers[n:]
	}
	return runs
}

// Append appends the datagram to b. The offers must fit: see SplitOffers.
func (w *Welcome) Append(b []byte) []byte {
	b = appendPrefix(b, TypeWelcome)
	b = binary.BigEndian.AppendUint16(b, w.Server)
	b = append(b, w.Part, w.Parts)
	b = binary.BigEndian.AppendUint32(b, w.Epoch)
	b = binary.BigEndian.AppendUint64(b, w.Nonce)
	b = binary.BigEndian.AppendUint64(b, w.Cookie)
	b = binary.BigEndian.AppendUint16(b, w.NBD)
	var flags byte
	if w.TLS {
		flags = needsTLS
	}
	b = append(b, byte(len(w.Offers)), flags)
	for i := range w.Offers {
		o := &w.Offers[i]
		b = binary.BigEndian.AppendUint16(b, o.Handle)
		b = append(b, o.Algorithm, o.BlockLog, byte(len(o.Name)), 0)
		b = binary.BigEndian.AppendUint16(b, o.Group.Port())
		addr := o.Group.Addr().As16()
		b = append(b, addr[:]...)
		b = binary.BigEndian.AppendUint64(b, o.Size)
		b = appendUint48(b, o.Revision)
		b = appendUint48(b, uint64(o.Created))
		b = binary.BigEndian.AppendUint16(b, uint16(len(o.Signature)))
		b = append(b, 0, 0)
		b = append(b, o.Root[:]...)
		b = append(b, o.Name...)
		b = append(b, o.Signature...)
	}
	return b
}

// ParseWelcome reads a WELCOME.
func ParseWelcome(b []byte) (Welcome, error) {
	if err := expect(b, TypeWelcome, welcomeFixed); err != nil {
		return Welcome{}, err
	}
	w := Welcome{
		Server: binary.BigEndian.Uint16(b[4:]),
		Part:   b[6],
		Parts:  b[7],
		Epoch:  binary.BigEndian.Uint32(b[8:]),
		Nonce:  binary.BigEndian.Uint64(b[12:]),
		Cookie: binary.BigEndian.Uint64(b[20:]),
		NBD:    binary.BigEndian.Uint16(b[28:]),
		TLS:    b[31]&needsTLS != 0,
	}
	count := int(b[30])
	if w.Part > 0 && w.Part >= w.Parts {
		return Welcome{}, fmt.Errorf("welcome: part %d of %d: %w", w.Part, w.Parts, ErrValue)
	}
	b = b[welcomeFixed:]
	for range count {
		if len(b) < offerFixed {
			return Welcome{}, fmt.Errorf("welcome: %w", ErrLength)
		}
		name, signature := int(b[4]), int(binary.BigEndian.Uint16(b[44:]))
		if name > MaxName || signature > MaxSignature {
			return Welcome{}, fmt.Errorf("welcome: name of %d bytes, signature of %d: %w", name, signature, ErrValue)
		}
		named := offerFixed + name
		if len(b) < named+signature {
			return Welcome{}, fmt.Errorf("welcome: %w", ErrLength)
		}
		o := Offer{
			Handle:    binary.BigEndian.Uint16(b),
			Algorithm: b[2],
			BlockLog:  b[3],
			Group:     netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), binary.BigEndian.Uint16(b[6:])),
			Size:      binary.BigEndian.Uint64(b[24:]),
			Revision:  uint48(b[32:]),
			Created:   int64(uint48(b[38:])),
			Root:      [32]byte(b[48:80]),
			Name:      string(b[offerFixed:named]),
		}
		if signature > 0 {
			o.Signature = bytes.Clone(b[named : named+signature])
		}
		w.Offers = append(w.Offers, o)
		b = b[named+signature:]
	}
	return w, nil
}

// Announce tells the group each second that a server lives. Sent a last time, with Leaving, it says that it stops.
type Announce struct {
	Server  uint16
	Leaving bool
	Epoch   uint32
	Rate    uint64 // bits a second that it paces at
	Backlog uint32 // milliseconds until what is queued now has been sent
	Clients uint16 // heard in the last seconds
	Images  []AnnouncedImage
}

// AnnouncedImage says that an image is still there under its handle.
type AnnouncedImage struct {
	Handle uint16
	State  ImageState
	Tag    uint64 // the first 8 bytes of the image id
}

// ImageState says whether an image is to be had.
type ImageState uint8

// The states.
const (
	ImageServed    ImageState = 0
	ImageWithdrawn ImageState = 1 // its bytes did not match its tree
)

const leaving = 1

// MaxAnnounced is how many images fit one Announce; a server with more announces them in turn.
const MaxAnnounced = (MaxControlSize - announceFixed) / announceEntry

// Append appends the datagram to b. It announces at most MaxAnnounced images.
func (a *Announce) Append(b []byte) []byte {
	b = appendPrefix(b, TypeAnnounce)
	b = binary.BigEndian.AppendUint16(b, a.Server)
	var flags byte
	if a.Leaving {
		flags = leaving
	}
	b = append(b, flags, byte(len(a.Images)))
	b = binary.BigEndian.AppendUint32(b, a.Epoch)
	b = binary.BigEndian.AppendUint64(b, a.Rate)
	b = binary.BigEndian.AppendUint32(b, a.Backlog)
	b = binary.BigEndian.AppendUint16(b, a.Clients)
	b = append(b, 0, 0, 0, 0, 0, 0)
	for _, i := range a.Images {
		b = binary.BigEndian.AppendUint16(b, i.Handle)
		b = append(b, byte(i.State), 0)
		b = binary.BigEndian.AppendUint64(b, i.Tag)
	}
	return b
}

// ParseAnnounce reads an ANNOUNCE.
func ParseAnnounce(b []byte) (Announce, error) {
	if err := expect(b, TypeAnnounce, announceFixed); err != nil {
		return Announce{}, err
	}
	a := Announce{
		Server:  binary.BigEndian.Uint16(b[4:]),
		Leaving: b[6]&leaving != 0,
		Epoch:   binary.BigEndian.Uint32(b[8:]),
		Rate:    binary.BigEndian.Uint64(b[12:]),
		Backlog: binary.BigEndian.Uint32(b[20:]),
		Clients: binary.BigEndian.Uint16(b[24:]),
	}
	count := int(b[7])
	if len(b) < announceFixed+count*announceEntry {
		return Announce{}, fmt.Errorf("announce of %d images: %w", count, ErrLength)
	}
	for i := range count {
		e := b[announceFixed+i*announceEntry:]
		a.Images = append(a.Images, AnnouncedImage{
			Handle: binary.BigEndian.Uint16(e),
			State:  ImageState(e[2]),
			Tag:    binary.BigEndian.Uint64(e[4:]),
		})
	}
	return a, nil
}

// paddedSize is the length that most datagrams have which tell of images, before they are sealed: in a group with a key they pass
// where the MTU is 1280, the least of IPv6.
const paddedSize = 1160

// SealedSize is the length that a control datagram is to be padded to before it is sealed, so that it does not tell how many images
// there are.
func SealedSize(b []byte) int {
	t, err := TypeOf(b)
	switch {
	case t == TypeHello:
		return max(len(b), helloFixed+MaxName) // nor how long the name is that is asked for
	case err != nil || t != TypeAnnounce && t != TypeWelcome:
		return len(b)
	case t == TypeWelcome && (len(b) < welcomeFixed || b[7] == 0):
		// Without offers it may go to an address that has not proved itself, and stays as small as the question.
		return len(b)
	case len(b) <= paddedSize:
		return paddedSize
	}
	return MaxControlSize
}
