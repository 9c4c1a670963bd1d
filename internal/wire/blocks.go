package wire

import (
	"encoding/binary"
	"fmt"
)

// Priority orders what a server sends: lower numbers first.
type Priority uint8

// The priorities.
const (
	Demand    Priority = 0 // somebody waits for it
	ReadAhead Priority = 1 // somebody will soon
	Bulk      Priority = 2 // a whole image is being fetched
	Classes            = 3 // how many there are

	// Note stands in a Range for none of them: nothing is to be sent. The client only says that it has a use for the blocks.
	Note Priority = 3
	// NoteOverheard is the Need of a Note of blocks that came to the client unasked. With 0 it gets them by other means.
	NoteOverheard = 1
)

// Want asks a server for blocks of one image, and reports what arrived of that image's stream so far.
type Want struct {
	Server   uint16
	Handle   uint16
	Epoch    uint32
	Cookie   uint64
	Time     uint32 // the client's clock in microseconds, for the Ack to echo
	Seen     uint64 // the highest sequence number received from this server for this image
	Received uint32 // symbols received of that stream since it was joined, modulo 2^32
	Drops    uint32 // datagrams that the client's kernel dropped for want of buffer, modulo 2^32
	Age      uint32 // microseconds since the symbol numbered Seen arrived, AgeUnknown if none with that number did
	Joined   bool   // Seen and Received mean something: the stream has been heard
	Ranges   []Range
}

// Range is a run of blocks that are wanted alike.
type Range struct {
	Block    uint32
	Count    uint16
	Priority Priority
	Need     uint16 // symbols still missing of each, at most MaxNeed, or 0 for the whole block
}

// AgeUnknown is the Age of a Want whose sender knows Seen from a tail mark only, or longer ago than an Age can say.
const AgeUnknown = 1<<32 - 1

// MaxNeed is the largest number of symbols that a Range can ask for.
const MaxNeed = 1<<14 - 1

// Append appends the datagram to b. There are at most MaxWantRanges ranges.
func (w *Want) Append(b []byte) []byte {
	b = appendPrefix(b, TypeWant)
	b = binary.BigEndian.AppendUint16(b, w.Server)
	b = binary.BigEndian.AppendUint16(b, w.Handle)
	b = binary.BigEndian.AppendUint32(b, w.Epoch)
	b = binary.BigEndian.AppendUint64(b, w.Cookie)
	b = binary.BigEndian.AppendUint32(b, w.Time)
	b = appendUint48(b, w.Seen)
	var flags byte
	if w.Joined {
		flags = 1
	}
	b = append(b, flags, byte(len(w.Ranges)))
	b = binary.BigEndian.AppendUint32(b, w.Received)
	b = binary.BigEndian.AppendUint32(b, w.Drops)
	b = binary.BigEndian.AppendUint32(b, w.Age)
	b = append(b, 0, 0, 0, 0)
	for _, r := range w.Ranges {
		b = binary.BigEndian.AppendUint32(b, r.Block)
		b = binary.BigEndian.AppendUint16(b, r.Count)
		b = binary.BigEndian.AppendUint16(b, uint16(r.Priority)<<14|r.Need)
	}
	return b
}

// ParseWant reads a WANT into w, whose Ranges it reuses.
func ParseWant(b []byte, w *Want) error {
	if err := expect(b, TypeWant, wantFixed); err != nil {
		return err
	}
	count := int(b[31])
	if len(b) < wantFixed+count*wantRange {
		return fmt.Errorf("want of %d ranges: %w", count, ErrLength)
	}
	*w = Want{
		Server:   binary.BigEndian.Uint16(b[4:]),
		Handle:   binary.BigEndian.Uint16(b[6:]),
		Epoch:    binary.BigEndian.Uint32(b[8:]),
		Cookie:   binary.BigEndian.Uint64(b[12:]),
		Time:     binary.BigEndian.Uint32(b[20:]),
		Seen:     uint48(b[24:]),
		Joined:   b[30]&1 != 0,
		Received: binary.BigEndian.Uint32(b[32:]),
		Drops:    binary.BigEndian.Uint32(b[36:]),
		Age:      binary.BigEndian.Uint32(b[40:]),
		Ranges:   w.Ranges[:0],
	}
	for i := range count {
		e := b[wantFixed+i*wantRange:]
		last := binary.BigEndian.Uint16(e[6:])
		r := Range{
			Block:    binary.BigEndian.Uint32(e),
			Count:    binary.BigEndian.Uint16(e[4:]),
			Priority: Priority(last >> 14),
			Need:     last & MaxNeed,
		}
		if r.Count == 0 {
			return fmt.Errorf("want: %w", ErrValue)
		}
		w.Ranges = append(w.Ranges, r)
	}
	return nil
}

// Data carries one symbol of a block. With K 0 and no payload it is a tail mark: the stream's last sequence number so far,
// sent when a server runs dry so that a lost last symbol is noticed.
type Data struct {
	Server  uint16
	Handle  uint16
	Epoch   uint32
	Seq     uint64 // of this symbol in this image's stream; of the last one sent, in a tail mark
	Backlog uint16 // milliseconds of sending that are queued behind it
	Block   uint32
	Index   uint16 // of the symbol: below K data, from K on parity
	K       uint16 // data symbols in the block
	Left    uint8  // symbols of this block that follow this one at once, 255 for that many or more
	Class   Priority
}

// AppendHeader appends the DataHeaderSize bytes that stand before the payload.
func (d *Data) AppendHeader(b []byte) []byte {
	b = appendPrefix(b, TypeData)
	b = binary.BigEndian.AppendUint16(b, d.Server)
	b = binary.BigEndian.AppendUint16(b, d.Handle)
	b = binary.BigEndian.AppendUint32(b, d.Epoch)
	b = appendUint48(b, d.Seq)
	b = binary.BigEndian.AppendUint16(b, d.Backlog)
	b = binary.BigEndian.AppendUint32(b, d.Block)
	b = binary.BigEndian.AppendUint16(b, d.Index)
	b = binary.BigEndian.AppendUint16(b, d.K)
	return append(b, d.Left, byte(d.Class))
}

// dataPrefix is how a DATA begins. There are very many of them, so it is compared as one number.
const dataPrefix = uint32(Magic)<<16 | uint32(Version)<<8 | uint32(TypeData)

// ParseData reads a DATA's header and returns its payload, which is a part of b.
func ParseData(b []byte, d *Data) (payload []byte, err error) {
	if len(b) < DataHeaderSize || binary.BigEndian.Uint32(b) != dataPrefix {
		return nil, expect(b, TypeData, DataHeaderSize)
	}
	*d = Data{
		Server:  binary.BigEndian.Uint16(b[4:]),
		Handle:  binary.BigEndian.Uint16(b[6:]),
		Epoch:   binary.BigEndian.Uint32(b[8:]),
		Seq:     uint48(b[12:]),
		Backlog: binary.BigEndian.Uint16(b[18:]),
		Block:   binary.BigEndian.Uint32(b[20:]),
		Index:   binary.BigEndian.Uint16(b[24:]),
		K:       binary.BigEndian.Uint16(b[26:]),
		Left:    b[28],
		Class:   Priority(b[29]),
	}
	payload = b[DataHeaderSize:]
	if (d.K == 0) != (len(payload) == 0) {
		return nil, fmt.Errorf("data of %d symbols with %d bytes: %w", d.K, len(payload), ErrLength)
	}
	return payload, nil
}

// Ack answers a Want.
type Ack struct {
	Server   uint16
	Handle   uint16
	Epoch    uint32
	Time     uint32 // of the Want
	Horizon  uint64 // once the stream has passed this sequence number, what was asked for has been sent
	Seq      uint64 // the stream's last sequence number so far
	Backlog  uint32 // milliseconds until what was asked for has been sent
	Queued   uint16 // blocks that will be sent
	InFlight uint16 // blocks that were sent after the client's Seen and will arrive, or be missed
	Clients  uint16 // that the server heard in the last seconds
	Alone    bool   // nobody else has a use for what the client waits for
	Slow     bool   // the client loses much of the stream, and most others get most of it
}

// The flags of an Ack.
const (
	alone = 1 << iota
	slow
)

// Append appends the datagram to b.
func (a *Ack) Append(b []byte) []byte {
	b = appendPrefix(b, TypeAck)
	b = binary.BigEndian.AppendUint16(b, a.Server)
	b = binary.BigEndian.AppendUint16(b, a.Handle)
	b = binary.BigEndian.AppendUint32(b, a.Epoch)
	b = binary.BigEndian.AppendUint32(b, a.Time)
	b = appendUint48(b, a.Horizon)
	b = appendUint48(b, a.Seq)
	b = binary.BigEndian.AppendUint32(b, a.Backlog)
	b = binary.BigEndian.AppendUint16(b, a.Queued)
	b = binary.BigEndian.AppendUint16(b, a.InFlight)
	b = binary.BigEndian.AppendUint16(b, a.Clients)
	var flags byte
	if a.Alone {
		flags |= alone
	}
	if a.Slow {
		flags |= slow
	}
	return append(b, flags, 0)
}

// ParseAck reads an ACK.
func ParseAck(b []byte) (Ack, error) {
	if err := expect(b, TypeAck, AckSize); err != nil {
		return Ack{}, err
	}
	return Ack{
		Server:   binary.BigEndian.Uint16(b[4:]),
		Handle:   binary.BigEndian.Uint16(b[6:]),
		Epoch:    binary.BigEndian.Uint32(b[8:]),
		Time:     binary.BigEndian.Uint32(b[12:]),
		Horizon:  uint48(b[16:]),
		Seq:      uint48(b[22:]),
		Backlog:  binary.BigEndian.Uint32(b[28:]),
		Queued:   binary.BigEndian.Uint16(b[32:]),
		InFlight: binary.BigEndian.Uint16(b[34:]),
		Clients:  binary.BigEndian.Uint16(b[36:]),
		Alone:    b[38]&alone != 0,
		Slow:     b[38]&slow != 0,
	}, nil
}

// Reason says why a server denies.
type Reason uint8

// The reasons.
const (
	DenyCookie    Reason = 1 // the cookie is not this address's, or of another epoch: Deny.Cookie is a good one
	DenyImage     Reason = 2 // no such image, or not any more
	DenyWithdrawn Reason = 3 // the image's bytes do not match its tree: ask another replica
	DenyBlock     Reason = 4 // the image has no such block
)

func (r Reason) String() string {
	switch r {
	case DenyCookie:
		return "bad cookie"
	case DenyImage:
		return "unknown image"
	case DenyWithdrawn:
		return "image withdrawn"
	case DenyBlock:
		return "no such block"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Deny refuses a Want.
type Deny struct {
	Server uint16
	Handle uint16
	Epoch  uint32
	Time   uint32 // of the Want
	Reason Reason
	Cookie uint64
}

// Append appends the datagram to b.
func (d *Deny) Append(b []byte) []byte {
	b = appendPrefix(b, TypeDeny)
	b = binary.BigEndian.AppendUint16(b, d.Server)
	b = binary.BigEndian.AppendUint16(b, d.Handle)
	b = binary.BigEndian.AppendUint32(b, d.Epoch)
	b = binary.BigEndian.AppendUint32(b, d.Time)
	b = append(b, byte(d.Reason), 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, d.Cookie)
	return append(b, 0, 0, 0, 0)
}

// ParseDeny reads a DENY.
func ParseDeny(b []byte) (Deny, error) {
	if err := expect(b, TypeDeny, DenySize); err != nil {
		return Deny{}, err
	}
	return Deny{
		Server: binary.BigEndian.Uint16(b[4:]),
		Handle: binary.BigEndian.Uint16(b[6:]),
		Epoch:  binary.BigEndian.Uint32(b[8:]),
		Time:   binary.BigEndian.Uint32(b[12:]),
		Reason: Reason(b[16]),
		Cookie: binary.BigEndian.Uint64(b[20:]),
	}, nil
}
