package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// errBroken is wrapped by the errors after which the stream cannot be understood any more, so that the connection ends.
var errBroken = errors.New("broken stream")

// request is one command of a client, from its header to the bytes of its reply. It belongs to one goroutine at a time:
// the connection's reader, then the goroutine that serves it, then whoever writes the reply.
type request struct {
	flags, command uint16
	cookie         uint64
	offset         uint64
	length         uint32

	cost   int64   // bytes acquired for its data
	data   *buffer // what was read, nil when the reply carries none
	reply  []byte  // the reply up to the data: header, and text of an error
	header [32]byte
}

// decode fills r from a request's header, "Request message". b has exactly lenRequestHeader bytes.
func (r *request) decode(b []byte) error {
	if magic := binary.BigEndian.Uint32(b); magic != magicRequest {
		return fmt.Errorf("read request: magic 0x%08x, want 0x%08x: %w", magic, uint32(magicRequest), errBroken)
	}
	r.flags = binary.BigEndian.Uint16(b[4:])
	r.command = binary.BigEndian.Uint16(b[6:])
	r.cookie = binary.BigEndian.Uint64(b[8:])
	r.offset = binary.BigEndian.Uint64(b[16:])
	r.length = binary.BigEndian.Uint32(b[24:])
	r.data, r.reply = nil, nil
	return nil
}

// within says whether the request lies within a device of size bytes.
func (r *request) within(size int64) bool {
	return r.offset <= uint64(size) && uint64(r.length) <= uint64(size)-r.offset
}

// succeed makes r's reply that of success, which carries data unless that is nil.
func (r *request) succeed(structured bool, data *buffer) {
	r.data = data
	b := r.header[:0]
	switch {
	case !structured:
		b = r.appendSimple(b, 0)
	case data == nil:
		b = r.appendChunk(b, replyNone, 0)
	default:
		b = r.appendChunk(b, replyOffsetData, 8+r.length)
		b = binary.BigEndian.AppendUint64(b, r.offset)
	}
	r.reply = b
}

// fail makes r's reply the error errno; where replies are structured, text goes with it.
func (r *request) fail(structured bool, errno uint32, text string) {
	r.data = nil
	if !structured {
		r.reply = r.appendSimple(r.header[:0], errno)
		return
	}
	text = clip(text)
	b := r.appendChunk(r.header[:0], replyError, uint32(6+len(text)))
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

// appendChunk appends the head of a "Structured reply chunk message", the only one of its reply, whose payload has
// length bytes.
func (r *request) appendChunk(b []byte, kind uint16, length uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, magicStructured)
	b = binary.BigEndian.AppendUint16(b, replyFlagDone)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, r.cookie)
	return binary.BigEndian.AppendUint32(b, length)
}
