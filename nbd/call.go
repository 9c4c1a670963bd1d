package nbd

import (
	"encoding/binary"
	"fmt"
	"slices"
)

const (
	lenExtendedHeader = 32
	// maxSpans bounds what one reply makes the client remember: the parts of a read that came and do not touch each other.
	// Servers send them in order, or few.
	maxSpans = 4096
	// maxStatusExtents is the most descriptors of a reply to BLOCK_STATUS, "NBD_REPLY_TYPE_BLOCK_STATUS".
	maxStatusExtents = 1 << 20
)

// call is one request on a connection, and its reply as far as it came. Its first four fields are the caller's; the rest
// belongs to the link until done tells that it is over.
type call struct {
	command, flags uint16
	offset, length uint64
	data           []byte // what to write, or where to put what is read: the caller's memory
	context        string // of a BLOCK_STATUS: whose extents to keep

	cookie uint64
	done   chan struct{} // receives once when err is set; has room for that
	err    error

	// Guarded by the link's mu.
	begun     bool // the header is on its way
	sent      int  // how much of data to write is on its way
	busy      bool // somebody is at data, without the lock
	abandoned bool // nobody waits; data is not to be touched

	// The reader's.
	failure error           // the first error in the reply
	spans   []span          // what of a read came, in order
	oneSpan [1]span         // spans of a reply in order
	seen    map[uint32]bool // contexts whose extents came
	extents []extent        // of context
}

// span is a part of a read: [from, to), from the read's offset.
type span struct{ from, to uint64 }

// String says what is asked for, for errors.
func (c *call) String() string {
	verb := [...]string{
		cmdRead: "read", cmdWrite: "write", cmdDisconnect: "disconnect", cmdFlush: "flush", cmdTrim: "trim", cmdCache: "prefetch",
		cmdWriteZeroes: "zero", cmdBlockStatus: "get block status of",
	}[c.command]
	if c.command == cmdFlush {
		return verb
	}
	return fmt.Sprintf("%s %d bytes at %d", verb, c.length, c.offset)
}

// weight is what c adds to the load of a link.
func (c *call) weight() int64 {
	const each = 4096
	if c.command == cmdRead || c.command == cmdWrite {
		return each + int64(c.length)
	}
	return each
}

// writes says whether c has data to send.
func (c *call) writes() bool { return c.command == cmdWrite }

// appendHeader appends the request without its data, "Request message".
func (c *call) appendHeader(b []byte, form replyForm) []byte {
	flags, magic := c.flags, uint32(magicRequest)
	if form == formExtended {
		magic = magicExtendedRequest
		if c.writes() {
			flags |= cmdFlagPayloadLen
		}
	}
	b = binary.BigEndian.AppendUint32(b, magic)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, c.command)
	b = binary.BigEndian.AppendUint64(b, c.cookie)
	b = binary.BigEndian.AppendUint64(b, c.offset)
	if form == formExtended {
		return binary.BigEndian.AppendUint64(b, c.length)
	}
	return binary.BigEndian.AppendUint32(b, uint32(c.length))
}

// cover notes that n bytes at off came. It fails when they are not among those that were asked for, or came before.
func (c *call) cover(off, n uint64) error {
	if off < c.offset || n > c.length || off-c.offset > c.length-n {
		return lies("%d bytes at %d in the reply to %v", n, off, c)
	}
	s := span{off - c.offset, off - c.offset + n}
	// The first span that ends after s begins; servers send in order, so it is mostly none.
	i := len(c.spans)
	for i > 0 && c.spans[i-1].to > s.from {
		i--
	}
	if i < len(c.spans) && c.spans[i].from < s.to {
		return lies("%d bytes at %d come twice in the reply to %v", n, off, c)
	}
	if i > 0 && c.spans[i-1].to == s.from {
		c.spans[i-1].to = s.to
		if i < len(c.spans) && c.spans[i].from == s.to {
			c.spans[i-1].to = c.spans[i].to
			c.spans = slices.Delete(c.spans, i, i+1)
		}
		return nil
	}
	if i < len(c.spans) && c.spans[i].from == s.to {
		c.spans[i].from = s.from
		return nil
	}
	if len(c.spans) == maxSpans {
		return lies("more than %d separate pieces in the reply to %v", maxSpans, c)
	}
	c.spans = slices.Insert(c.spans, i, s)
	return nil
}

// verdict is the result of a reply that is complete.
// The second error is set when the server lied: all must have come that was asked for.
func (c *call) verdict(contexts int) (failed, lie error) {
	switch {
	case c.failure != nil:
		return c.failure, nil
	case c.command == cmdRead && (len(c.spans) != 1 || c.spans[0] != span{0, c.length}):
		return nil, lies("the reply to %v succeeds without all bytes", c)
	case c.command == cmdBlockStatus && len(c.seen) != contexts:
		return nil, lies("the reply to %v has %d of %d contexts", c, len(c.seen), contexts)
	case c.writes() && c.sent < len(c.data):
		return nil, lies("%v succeeds before all bytes were sent", c)
	}
	return nil, nil
}
