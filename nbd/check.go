package nbd

import "fmt"

// check returns the error number that r deserves, and the reason as a text, or 0. It knows what was offered to the client,
// "Error values".
func (t *transmission) check(r *request) (errno uint32, text string) {
	errno, text = t.offered(r)
	if errno != 0 {
		return errno, text
	}
	if wrong := r.flags &^ t.allowed(r.command); wrong != 0 {
		return errInvalid, fmt.Sprintf("flags 0x%x do not apply to command %d here", wrong, r.command)
	}
	if t.extended() && (r.payload > 0) != (r.command == cmdWrite) && r.length > 0 {
		return errInvalid, fmt.Sprintf("data after the header: %d bytes, which is wrong for command %d", r.payload, r.command)
	}
	switch r.command {
	case cmdFlush:
		if r.offset != 0 || r.length != 0 {
			return errInvalid, "a flush has no offset or length"
		}
		return 0, ""
	case cmdBlockStatus:
		if r.length == 0 {
			return errInvalid, "the status of nothing"
		}
	}
	if !r.within(t.size) {
		text = fmt.Sprintf("%d bytes at %d leave the export of %d", r.length, r.offset, t.size)
		if r.command == cmdWrite || r.command == cmdWriteZeroes {
			return errNoSpace, text
		}
		return errInvalid, text
	}
	if r.length > maxPayload && (r.command == cmdRead || r.command == cmdWrite) {
		text = fmt.Sprintf("at most %d bytes are read or written at once", maxPayload)
		if r.command == cmdRead && t.style != styleSimple { // the only ones for whom EOVERFLOW is meant
			return errOverflow, text
		}
		return errInvalid, text
	}
	return 0, ""
}

// offered says no to commands that this client was not told of.
func (t *transmission) offered(r *request) (errno uint32, text string) {
	ok := true
	switch r.command {
	case cmdRead:
	case cmdWrite, cmdTrim, cmdWriteZeroes:
		if t.can.writer == nil {
			return errPerm, "the export is read-only"
		}
		ok = r.command == cmdWrite || r.command == cmdTrim && t.can.trimmer != nil ||
			r.command == cmdWriteZeroes && t.can.zeroer != nil
	case cmdFlush:
		ok = t.can.writer == nil || t.can.flusher != nil
	case cmdCache:
		ok = t.can.prefetcher != nil
	case cmdBlockStatus:
		ok = len(t.contexts) > 0
	default:
		return errInvalid, fmt.Sprintf("command %d is not known here", r.command)
	}
	if !ok {
		return errInvalid, fmt.Sprintf("command %d was not offered for this export", r.command)
	}
	return 0, ""
}

// allowed are the flags that a command may have, "Command flags".
func (t *transmission) allowed(command uint16) (flags uint16) {
	if t.can.writer != nil {
		flags = cmdFlagFUA // on any command: some clients set it on all
	}
	switch command {
	case cmdRead:
		if t.style != styleSimple {
			flags |= cmdFlagDF
		}
	case cmdWriteZeroes:
		flags |= cmdFlagNoHole | cmdFlagFastZero
	case cmdBlockStatus:
		flags |= cmdFlagReqOne
	}
	if t.extended() {
		flags |= cmdFlagPayloadLen
	}
	return flags
}
