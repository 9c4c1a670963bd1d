package nbd

import (
	"context"
	"encoding/binary"
	"fmt"
)

const (
	// maxExtents is how many extents a reply has for each context, which bounds its memory and time: at the least 32 MiB of
	// an export are told at once when each block of 4 KiB is different. Clients ask on where the answer ends.
	maxExtents = 8192
	// lenExtent is the memory that an extent takes in the longer of its encodings.
	lenExtent = 16
	// maxCompactExtent is the longest extent, in bytes, that is told in 32 bits. It is aligned as any client may want it.
	maxCompactExtent = 1<<32 - 1<<16
)

// extent is a run of bytes that share a status.
type extent struct{ length, status uint64 }

// status makes r's reply the status of the range for each of its contexts.
func (r *request) status(ctx context.Context, style replyStyle, size int64) error {
	var b []byte
	for i, c := range r.contexts {
		list, err := r.extents(ctx, c.Context, size)
		if err != nil {
			return err
		}
		var flags uint16
		if i == len(r.contexts)-1 {
			flags = replyFlagDone
		}
		if style == styleExtended {
			b = r.appendChunk(b, style, flags, replyBlockStatusExt, 8+16*len(list))
			b = binary.BigEndian.AppendUint32(b, c.id)
			b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
			for _, e := range list {
				b = binary.BigEndian.AppendUint64(b, e.length)
				b = binary.BigEndian.AppendUint64(b, e.status)
			}
			continue
		}
		list = compact(list)
		b = r.appendChunk(b, style, flags, replyBlockStatus, 4+8*len(list))
		b = binary.BigEndian.AppendUint32(b, c.id)
		for _, e := range list {
			b = binary.BigEndian.AppendUint32(b, uint32(e.length))
			b = binary.BigEndian.AppendUint32(b, uint32(e.status))
		}
	}
	r.reply = b
	return nil
}

// extents asks c for the extents of r's range. Neighbours with the same status become one. The last may reach beyond the
// range, unless the client wants just one, but not beyond the device.
func (r *request) extents(ctx context.Context, c Context, size int64) (list []extent, err error) {
	limit, rest := maxExtents, size-int64(r.offset)
	if r.flags&cmdFlagReqOne != 0 {
		limit, rest = 1, int64(r.length)
	}
	wanted := int64(r.length)
	err = c.Status(ctx, int64(r.offset), int64(r.length), func(n int64, status uint64) bool {
		n = min(n, rest)
		last := len(list) - 1
		switch {
		case n <= 0 || wanted <= 0:
			return false
		case last >= 0 && list[last].status == status:
			list[last].length += uint64(n)
		case len(list) == limit:
			return false
		default:
			list = append(list, extent{uint64(n), status})
		}
		rest, wanted = rest-n, wanted-n
		return wanted > 0
	})
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("the device has no %s at %d", c.Name, r.offset)
	}
	return list, err
}

// compact cuts list after the first extent that 32 bits do not hold, and shortens that.
func compact(list []extent) []extent {
	for i := range list {
		if list[i].length > maxCompactExtent {
			list[i].length = maxCompactExtent
			return list[:i+1]
		}
	}
	return list
}

// readFilter reads the data of a block status request that names the contexts it is about, and its length, "Block status
// payload". It returns the error number that the request deserves, and why; its data is then still to be read.
func (t *transmission) readFilter(r *request) (errno uint32, text string, err error) {
	n := len(t.contexts)
	if r.payload < 8+4 || r.payload > uint64(8+4*n) || r.payload%4 != 0 {
		return errInvalid, fmt.Sprintf("a status request with %d bytes of data, for %d contexts", r.payload, n), nil
	}
	b := make([]byte, r.payload)
	if err := t.readFull(b); err != nil {
		return 0, "", err
	}
	r.length, r.payload = binary.BigEndian.Uint64(b), 0
	r.flags &^= cmdFlagPayloadLen
	r.contexts = make([]selection, 0, n)
	for ids := b[8:]; len(ids) > 0; ids = ids[4:] {
		id := binary.BigEndian.Uint32(ids)
		c, ok := findSelection(t.contexts, id)
		if _, twice := findSelection(r.contexts, id); !ok || twice {
			return errInvalid, fmt.Sprintf("metadata context %d is unknown or named twice", id), nil
		}
		r.contexts = append(r.contexts, c)
	}
	return 0, "", nil
}
