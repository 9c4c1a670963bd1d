package nbd

import (
	"bytes"
	"encoding/binary"
)

// replyStyle is how replies look. The richest that was negotiated is used for all of them.
type replyStyle uint8

const (
	styleSimple     replyStyle = iota // an error or data
	styleStructured                   // chunks
	styleExtended                     // chunks with 64-bit lengths
)

// succeed makes r's reply that of success, which carries what was read.
func (r *request) succeed(style replyStyle) {
	b := r.header[:0]
	switch {
	case style == styleSimple:
		b = r.appendSimple(b, 0)
	case r.read() == 0:
		b = r.appendChunk(b, style, replyFlagDone, replyNone, 0)
	default:
		b = r.appendChunk(b, style, replyFlagDone, replyOffsetData, 8+int(r.read()))
		b = binary.BigEndian.AppendUint64(b, r.offset)
	}
	r.reply = b
}

// hole makes r's reply that all it wants to read is zero.
func (r *request) hole(style replyStyle) {
	b := r.appendChunk(r.header[:0], style, replyFlagDone, replyOffsetHole, 12)
	b = binary.BigEndian.AppendUint64(b, r.offset)
	r.reply = binary.BigEndian.AppendUint32(b, uint32(r.length))
}

// fail makes r's reply the error errno; where the style allows, text goes with it.
func (r *request) fail(style replyStyle, errno uint32, text string) {
	if style == styleSimple {
		r.reply = r.appendSimple(r.header[:0], errno)
		return
	}
	text = clip(text)
	b := r.appendChunk(r.header[:0], style, replyFlagDone, replyError, 6+len(text))
	b = binary.BigEndian.AppendUint32(b, errno)
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	r.reply = append(b, text...)
}

// appendSimple appends a "Simple reply message".
func (r *request) appendSimple(b []byte, errno uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, magicSimple)
	b = binary.BigEndian.AppendUint32(b, errno)
	return binary.BigEndian.AppendUint64(b, r.cookie)
}

// appendChunk appends the head of a "Structured reply chunk message" or an "Extended reply chunk message" whose payload
// has length bytes.
func (r *request) appendChunk(b []byte, style replyStyle, flags, kind uint16, length int) []byte {
	magic := uint32(magicStructured)
	if style == styleExtended {
		magic = magicExtendedReply
	}
	b = binary.BigEndian.AppendUint32(b, magic)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, r.cookie)
	if style == styleExtended {
		b = binary.BigEndian.AppendUint64(b, r.offset)
		return binary.BigEndian.AppendUint64(b, uint64(length))
	}
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

// allZero says whether b, which has at least one byte, is zero throughout. It stops at the first byte that is not, and
// compares as fast as memory is read.
func allZero(b []byte) bool {
	return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
