package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
)

const (
	// receiveBuffer takes in many small replies with one call.
	receiveBuffer = 64 << 10
	// largePayload is where data is better read straight to where it belongs, even if that takes another call.
	largePayload = 16 << 10
	// maxErrorChunk is the longest error: its text and what may follow it.
	maxErrorChunk = maxString + 256
)

// lenReplyHeader is how long a reply is up to the data, for each form.
var lenReplyHeader = [...]int{formSimple: 16, formStructured: 28, formExtended: 40}

// replyReader reads from a connection, some bytes ahead. After a large payload it reads no further ahead than the next
// reply's header, so that the next large one is not copied. It is the reader's.
type replyReader struct {
	conn   net.Conn
	buf    []byte
	r, w   int // what was read ahead is buf[r:w]
	header int
	ahead  int // how much to read ahead
}

func newReplyReader(conn net.Conn, form replyForm) replyReader {
	return replyReader{conn: conn, buf: make([]byte, receiveBuffer), header: lenReplyHeader[form], ahead: receiveBuffer}
}

// read reads some bytes of a payload into p, which is not empty.
func (b *replyReader) read(p []byte) (n int, err error) {
	if b.r == b.w {
		b.ahead = receiveBuffer
		if len(p) >= largePayload {
			b.ahead = b.header
		}
		return b.conn.Read(p)
	}
	n = copy(p, b.buf[b.r:b.w])
	b.r += n
	return n, nil
}

// more reads ahead. It may be interrupted by os.ErrDeadlineExceeded.
func (b *replyReader) more() error {
	if b.r > 0 {
		b.w = copy(b.buf, b.buf[b.r:b.w])
		b.r = 0
	}
	n, err := b.conn.Read(b.buf[b.w:max(b.ahead, b.w+b.header)])
	if b.w += n; n > 0 {
		return nil
	}
	return err
}

// peek returns the next n bytes, at most maxErrorChunk, and goes on when it is interrupted.
func (l *link) peek(n int) ([]byte, error) {
	for l.in.w-l.in.r < n {
		if err := l.in.more(); errors.Is(err, os.ErrDeadlineExceeded) {
			l.resume(nil)
		} else if err != nil {
			return nil, err
		}
	}
	return l.in.buf[l.in.r : l.in.r+n], nil
}

// take is peek, after which the bytes are past.
func (l *link) take(n int) ([]byte, error) {
	b, err := l.peek(n)
	if err == nil {
		l.in.r += n
	}
	return b, err
}

// drop reads n bytes that nobody wants.
func (l *link) drop(n uint64) error {
	for n > 0 {
		if _, err := l.peek(1); err != nil {
			return err
		}
		step := min(n, uint64(l.in.w-l.in.r))
		l.in.r += int(step)
		n -= step
	}
	return nil
}

// chunk is the header of a reply: a part of one, or all of it.
type chunk struct {
	flags, kind uint16
	cookie      uint64
	length      uint64 // of the payload
}

// done says whether the reply ends with k.
func (k *chunk) done() bool { return k.flags&replyFlagDone != 0 }

// readReplies is the goroutine that reads. It returns why it cannot go on.
func (l *link) readReplies() error {
	for {
		err := l.readReply()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the server hung up: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
	}
}

// readReply reads one simple reply, or one chunk.
func (l *link) readReply() error {
	n := 16
	if l.form == formExtended {
		n = lenExtendedHeader
	}
	b, err := l.peek(n)
	if err != nil {
		return err
	}
	magic := binary.BigEndian.Uint32(b)
	switch {
	case magic == magicSimple && l.form != formExtended:
		l.in.r += n
		return l.simple(binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[4:]))
	case magic == magicStructured && l.form == formStructured:
		if b, err = l.take(20); err != nil {
			return err
		}
		return l.chunk(chunk{
			binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:]),
			binary.BigEndian.Uint64(b[8:]), uint64(binary.BigEndian.Uint32(b[16:])),
		}, nil)
	case magic == magicExtendedReply && l.form == formExtended:
		l.in.r += n
		offset := binary.BigEndian.Uint64(b[16:])
		return l.chunk(chunk{
			binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:]),
			binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[24:]),
		}, &offset)
	}
	return lies("a reply with magic 0x%08x where replies are %v", magic, l.form)
}

// simple takes a "Simple reply message".
func (l *link) simple(cookie uint64, number uint32) error {
	c, err := l.expected(cookie)
	if err != nil {
		return err
	}
	if l.form == formStructured && (c.command == cmdRead || c.command == cmdBlockStatus && number == 0) {
		return lies("a simple reply to %v, where replies are structured", c)
	}
	if len(c.spans) > 0 || len(c.seen) > 0 || c.failure != nil {
		return lies("a simple reply to %v after parts of a structured one", c)
	}
	switch {
	case number != 0:
		c.failure = &RemoteError{Request: c.String(), number: number}
	case c.command == cmdRead:
		if err := c.cover(c.offset, c.length); err != nil {
			return err
		}
		if err := l.fill(c, 0, c.length); err != nil {
			return err
		}
	}
	return l.complete(c)
}

// chunk takes a "Structured reply chunk message". offset is that of an extended one's header.
func (l *link) chunk(k chunk, offset *uint64) error {
	c, err := l.expected(k.cookie)
	if err != nil {
		return err
	}
	if offset != nil && *offset != c.offset {
		return lies("a reply to %v says that it is for offset %d", c, *offset)
	}
	switch {
	case k.kind == replyNone && k.length == 0 && k.done():
	case k.kind == replyOffsetData && k.length > 8 && c.command == cmdRead:
		err = l.data(c, k.length-8)
	case k.kind == replyOffsetHole && k.length == 12 && c.command == cmdRead:
		err = l.hole(c)
	case k.kind == replyBlockStatus && l.form == formStructured && c.command == cmdBlockStatus:
		err = l.status(c, k.length, 4, 8)
	case k.kind == replyBlockStatusExt && l.form == formExtended && c.command == cmdBlockStatus:
		err = l.status(c, k.length, 8, 16)
	case k.kind&(1<<15) != 0:
		err = l.failure(c, k)
	default:
		return lies("a chunk of type %d with flags 0x%x and %d bytes in the reply to %v", k.kind, k.flags, k.length, c)
	}
	if err != nil || !k.done() {
		return err
	}
	return l.complete(c)
}

// data takes an "NBD_REPLY_TYPE_OFFSET_DATA" of n bytes.
func (l *link) data(c *call, n uint64) error {
	b, err := l.take(8)
	if err != nil {
		return err
	}
	offset := binary.BigEndian.Uint64(b)
	if err := c.cover(offset, n); err != nil {
		return err
	}
	return l.fill(c, offset-c.offset, n)
}

// hole takes an "NBD_REPLY_TYPE_OFFSET_HOLE".
func (l *link) hole(c *call) error {
	b, err := l.take(12)
	if err != nil {
		return err
	}
	offset, n := binary.BigEndian.Uint64(b), uint64(binary.BigEndian.Uint32(b[8:]))
	if n == 0 {
		return lies("a hole of no bytes in the reply to %v", c)
	}
	if err := c.cover(offset, n); err != nil {
		return err
	}
	l.zero(c, offset-c.offset, n)
	return nil
}

// failure takes an error chunk. Types that are not known begin like the others.
func (l *link) failure(c *call, k chunk) error {
	if k.length < 6 || k.length > maxErrorChunk {
		return lies("an error of %d bytes in the reply to %v", k.length, c)
	}
	b, err := l.take(int(k.length))
	if err != nil {
		return err
	}
	number, text, rest := binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint16(b[4:])), b[6:]
	switch {
	case text > len(rest), k.kind == replyError && text != len(rest), k.kind == replyErrorOffset && text+8 != len(rest):
		return lies("an error of %d bytes with a text of %d in the reply to %v", k.length, text, c)
	case number == 0:
		return lies("an error that is none in the reply to %v", c)
	case k.kind == replyErrorOffset:
		if at := binary.BigEndian.Uint64(rest[text:]); at < c.offset || at-c.offset >= c.length {
			return lies("an error at %d in the reply to %v", at, c)
		}
	}
	if c.failure == nil {
		c.failure = &RemoteError{Request: c.String(), number: number, Text: clip(string(rest[:text]))}
	}
	return nil
}

// status takes an "NBD_REPLY_TYPE_BLOCK_STATUS" or …_EXT of length bytes: a head of as many bytes, then descriptors.
func (l *link) status(c *call, length, head, descriptor uint64) error {
	count := (length - head) / descriptor
	if length <= head || (length-head)%descriptor != 0 || count > maxStatusExtents {
		return lies("a block status of %d bytes", length)
	}
	b, err := l.take(int(head))
	if err != nil {
		return err
	}
	id := binary.BigEndian.Uint32(b)
	name, ok := l.contexts[id]
	if !ok || c.seen[id] || head == 8 && uint64(binary.BigEndian.Uint32(b[4:])) != count {
		return lies("an unexpected context, %d, in the reply to %v", id, c)
	}
	if c.seen == nil {
		c.seen = make(map[uint32]bool)
	}
	c.seen[id] = true
	var sum uint64
	for range count {
		if b, err = l.take(int(descriptor)); err != nil {
			return err
		}
		e := extent{uint64(binary.BigEndian.Uint32(b)), uint64(binary.BigEndian.Uint32(b[descriptor/2:]))}
		if descriptor == 16 {
			e = extent{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
		}
		if e.length == 0 || e.length > math.MaxInt64 || sum >= c.length {
			return lies("an extent of %d bytes, %d after the beginning, in the reply to %v", e.length, sum, c)
		}
		if sum += e.length; name == c.context {
			c.extents = append(c.extents, e)
		}
	}
	return nil
}
