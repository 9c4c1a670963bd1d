package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// errBroken is wrapped by the errors after which the stream cannot be understood any more, so that the connection ends.
var errBroken = errors.New("broken stream")

// request is one command of a client, from its header to the bytes of its reply. It belongs to one goroutine at a time:
// the connection's reader, then whoever serves it, then whoever writes the reply.
type request struct {
	flags, command uint16
	cookie         uint64
	offset         uint64
	length         uint64 // of the part of the export that it is about, in bytes
	payload        uint64 // of the data that follows the header, in bytes

	contexts []selection // what the status is wanted of
	cost     int64       // bytes acquired for its data
	data     *buffer     // what is to be written; then what was read, nil when the reply carries none
	pipe     *pipe       // instead of data, what was read, if that need not be copied
	piped    bool        // it waited for a pipe
	recalled bool        // what it reads was in memory
	quick    bool        // serving it took no longer than it takes a quick device
	reply    []byte      // the reply up to the data: header, and what is not in data
	header   [48]byte
}

// decode fills r from a request's header, "Request message". b has exactly lenRequestHeader bytes, or
// lenExtendedRequestHeader if extended.
func (r *request) decode(b []byte, extended bool) error {
	want := uint32(magicRequest)
	if extended {
		want = magicExtendedRequest
	}
	if magic := binary.BigEndian.Uint32(b); magic != want {
		return fmt.Errorf("read request: magic 0x%08x, want 0x%08x: %w", magic, want, errBroken)
	}
	*r = request{
		flags:   binary.BigEndian.Uint16(b[4:]),
		command: binary.BigEndian.Uint16(b[6:]),
		cookie:  binary.BigEndian.Uint64(b[8:]),
		offset:  binary.BigEndian.Uint64(b[16:]),
	}
	if extended {
		r.length = binary.BigEndian.Uint64(b[24:])
		if r.flags&cmdFlagPayloadLen != 0 {
			r.payload = r.length
		}
	} else {
		r.length = uint64(binary.BigEndian.Uint32(b[24:]))
		if r.command == cmdWrite {
			r.payload = r.length
		}
	}
	return nil
}

// within says whether the request lies within a device of size bytes.
func (r *request) within(size int64) bool {
	return r.offset <= uint64(size) && r.length <= uint64(size)-r.offset
}
