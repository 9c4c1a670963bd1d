package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
)

const (
	// magicOldstyle is in the place of magicOption where a server speaks the "Oldstyle negotiation", which ended in 2011.
	magicOldstyle = 0x00420281861253

	// maxOptReply is the longest reply to an option that is read: two strings, and room for what may be added.
	maxOptReply = 16 << 10
	// maxOptReplies ends an answer that has no end.
	maxOptReplies = 1 << 16
	// maxListing is how many bytes of names and descriptions a list of exports may have.
	maxListing = 16 << 20
	// maxContexts is how many metadata contexts are asked for, or listed, of one export.
	maxContexts = 256
)

// handshake is the client's side of the negotiation. It reads nothing ahead, so that what is unencrypted and what is
// encrypted cannot be mixed up. It is used by one goroutine.
type handshake struct {
	conn     net.Conn // with TLS on it once there is TLS
	socket   net.Conn // without
	config   *DialConfig
	fixed    bool
	noZeroes bool
	agreed   agreement
}

// read fills b.
func (h *handshake) read(b []byte, what string) error {
	if _, err := io.ReadFull(h.conn, b); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("the server hung up: %w", io.ErrUnexpectedEOF)
		}
		return fmt.Errorf("read %s: %w", what, err)
	}
	return nil
}

func (h *handshake) write(b []byte, what string) error {
	if _, err := h.conn.Write(b); err != nil {
		return fmt.Errorf("send %s: %w", what, err)
	}
	return nil
}

// greet exchanges flags, "Newstyle negotiation".
func (h *handshake) greet() error {
	var b [18]byte
	if err := h.read(b[:16], "greeting"); err != nil {
		return err
	}
	if m := binary.BigEndian.Uint64(b[:]); m != magicServer {
		return lies("a greeting of %q: is this an NBD server?", b[:8])
	}
	switch m := binary.BigEndian.Uint64(b[8:]); m {
	case magicOption:
	case magicOldstyle:
		return fmt.Errorf("the server speaks the oldstyle negotiation, which is not supported: start it without -o: %w", errors.ErrUnsupported)
	default:
		return lies("magic 0x%016x in the greeting", m)
	}
	if err := h.read(b[16:], "greeting"); err != nil {
		return err
	}
	flags := uint32(binary.BigEndian.Uint16(b[16:]))
	h.fixed = flags&flagFixedNewstyle != 0
	h.noZeroes = flags&flagNoZeroes != 0
	return h.write(binary.BigEndian.AppendUint32(nil, flags&(flagFixedNewstyle|flagNoZeroes)), "client flags")
}

// option sends an option, and calls each with the replies before the last. The error is an optionError when the server
// refused. The data is each's only during the call.
func (h *handshake) option(option uint32, data []byte, each func(kind uint32, data []byte) error) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if err := h.write(append(b, data...), optionNames[option]); err != nil {
		return err
	}
	for range maxOptReplies {
		var head [20]byte
		if err := h.read(head[:], "answer to "+optionNames[option]); err != nil {
			return err
		}
		kind, length := binary.BigEndian.Uint32(head[12:]), binary.BigEndian.Uint32(head[16:])
		switch m, o := binary.BigEndian.Uint64(head[:]), binary.BigEndian.Uint32(head[8:]); {
		case m != magicOptReply:
			return lies("an answer to %s with magic 0x%016x", optionNames[option], m)
		case o != option:
			return lies("an answer to option %d when %s was asked", o, optionNames[option])
		case length > maxOptReply:
			return lies("an answer to %s of %d bytes", optionNames[option], length)
		}
		data := make([]byte, length)
		if err := h.read(data, "answer to "+optionNames[option]); err != nil {
			return err
		}
		switch {
		case kind == repAck:
			return nil
		case kind&repError != 0:
			return &optionError{option, kind, clip(string(data))}
		case each == nil:
			return lies("a reply of type %d to %s", kind, optionNames[option])
		}
		if err := each(kind, data); err != nil {
			return fmt.Errorf("%s: %w", optionNames[option], err)
		}
	}
	return lies("more than %d replies to %s", maxOptReplies, optionNames[option])
}

// startTLS encrypts the connection.
func (h *handshake) startTLS(ctx context.Context, config *tls.Config) error {
	if !h.fixed {
		return fmt.Errorf("the server is too old for TLS: %w", errors.ErrUnsupported)
	}
	if err := h.option(optStartTLS, nil, nil); err != nil {
		return fmt.Errorf("TLS was asked for: %w", err)
	}
	conn := tls.Client(h.conn, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	h.conn = conn
	state := conn.ConnectionState()
	h.agreed.tls = &state
	return nil
}

// chooseForm agrees on the richest form of replies that the server has and the user allows.
func (h *handshake) chooseForm() error {
	if !h.fixed || h.config.NoStructuredReplies {
		return nil
	}
	try := func(option uint32, form replyForm) error {
		err := h.option(option, nil, nil)
		if err == nil {
			h.agreed.form = form
		}
		if refusedWith(err, repErrTLSReqd) || err != nil && !refused(err) {
			return err
		}
		return nil
	}
	if !h.config.NoExtendedHeaders {
		if err := try(optExtendedHeaders, formExtended); err != nil || h.agreed.form == formExtended {
			return err
		}
	}
	return try(optStructuredReply, formStructured)
}

// appendString appends a string with its length before it.
func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// metaContext sends LIST_META_CONTEXT or SET_META_CONTEXT, and calls each with the contexts in the answer.
func (h *handshake) metaContext(option uint32, export string, queries []string, each func(id uint32, name string) error) error {
	data := binary.BigEndian.AppendUint32(appendString(nil, export), uint32(len(queries)))
	for _, q := range queries {
		data = appendString(data, q)
	}
	n := 0
	return h.option(option, data, func(kind uint32, data []byte) error {
		n++
		if kind != repMetaContext || len(data) < 4 || len(data) > 4+maxString || n > maxContexts {
			return lies("reply %d is of type %d with %d bytes", n, kind, len(data))
		}
		return each(binary.BigEndian.Uint32(data), string(data[4:]))
	})
}

// setContexts selects the metadata contexts that the user wants, as far as the server has them.
func (h *handshake) setContexts(export string) error {
	wanted := h.config.contexts()
	if h.agreed.form == formSimple || len(wanted) == 0 {
		return nil
	}
	h.agreed.contexts = make(map[uint32]string)
	err := h.metaContext(optSetMetaContext, export, wanted, func(id uint32, name string) error {
		if _, taken := h.agreed.contexts[id]; taken || slices.Contains(h.agreed.info.Contexts, name) {
			return lies("context %q, id %d, twice", name, id)
		}
		h.agreed.contexts[id] = name
		h.agreed.info.Contexts = append(h.agreed.info.Contexts, name)
		return nil
	})
	if err != nil {
		h.agreed.contexts, h.agreed.info.Contexts = nil, nil
	}
	if refused(err) {
		return nil // if it is for a reason that matters, GO will have it too
	}
	return err
}

// describe sends INFO or GO for an export.
func (h *handshake) describe(option uint32, export string) error {
	wanted := []uint16{infoName, infoDescription, infoBlockSize}
	if h.config.NoBlockSizes {
		wanted = wanted[:2]
	}
	data := binary.BigEndian.AppendUint16(appendString(nil, export), uint16(len(wanted)))
	for _, kind := range wanted {
		data = binary.BigEndian.AppendUint16(data, kind)
	}
	known := false
	err := h.option(option, data, func(kind uint32, data []byte) error {
		if kind != repInfo || len(data) < 2 {
			return lies("a reply of type %d with %d bytes", kind, len(data))
		}
		kind, data = uint32(binary.BigEndian.Uint16(data)), data[2:]
		switch {
		case kind == infoExport && len(data) == 10:
			known = true
			return h.agreed.setExport(data)
		case kind == infoBlockSize && len(data) == 12:
			if h.config.NoBlockSizes {
				return nil
			}
			return h.agreed.setBlockSize(data)
		case kind == infoName && len(data) <= maxString:
			h.agreed.info.Name = clip(string(data))
		case kind == infoDescription && len(data) <= maxString:
			h.agreed.info.Description = clip(string(data))
		case kind <= infoBlockSize:
			return lies("information %d has %d bytes", kind, len(data))
		}
		return nil
	})
	if err == nil && !known {
		return lies("no size and flags in the answer to %s", optionNames[option])
	}
	return err
}

// exportName chooses an export as all servers understand it. One that has no such export hangs up.
func (h *handshake) exportName(export string) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = appendString(binary.BigEndian.AppendUint32(b, optExportName), export)
	if err := h.write(b, "EXPORT_NAME"); err != nil {
		return err
	}
	var answer [10 + lenZeroes]byte
	n := len(answer)
	if h.noZeroes {
		n = 10
	}
	if err := h.read(answer[:n], "size and flags"); err != nil {
		return fmt.Errorf("choose export %q (an old server that has none of this name hangs up): %w", export, err)
	}
	if !bytes.Equal(answer[10:n], make([]byte, n-10)) {
		return lies("padding that is not zero")
	}
	return h.agreed.setExport(answer[:])
}

// choose negotiates up to the transmission phase with an export.
func (h *handshake) choose(ctx context.Context, export string, secure *tls.Config) error {
	if err := h.open(ctx, secure); err != nil {
		return err
	}
	h.forget(export)
	if err := h.setContexts(export); err != nil {
		return err
	}
	err := fmt.Errorf("GO: %w", errors.ErrUnsupported)
	if h.fixed && !h.config.NoGo {
		err = h.describe(optGo, export)
	}
	if errors.Is(err, errors.ErrUnsupported) && h.agreed.form != formExtended {
		err = h.exportName(export)
	}
	if refused(err) {
		h.abort()
	}
	if err != nil {
		return fmt.Errorf("choose export %q: %w", export, err)
	}
	return nil
}

// open does all that comes before an export is named.
func (h *handshake) open(ctx context.Context, secure *tls.Config) error {
	if err := h.greet(); err != nil {
		return err
	}
	if secure != nil {
		if err := h.startTLS(ctx, secure); err != nil {
			return err
		}
	}
	return h.chooseForm()
}

// forget begins to gather what there is to know of an export.
func (h *handshake) forget(export string) {
	h.agreed.info = ExportInfo{Name: export, MinBlock: 1, PreferredBlock: defaultBlockSize, MaxPayload: maxPayload}
	h.agreed.contexts = nil
}

// abort ends a negotiation that did not choose an export. Servers may answer or not.
func (h *handshake) abort() { _ = h.option(optAbort, nil, nil) }

// list returns the server's exports.
func (h *handshake) list() ([]ExportInfo, error) {
	if !h.fixed {
		return nil, fmt.Errorf("the server is too old to list its exports: %w", errors.ErrUnsupported)
	}
	var names []ExportInfo
	total := 0
	err := h.option(optList, nil, func(kind uint32, data []byte) error {
		name, text, ok := cutString(data)
		if kind != repServer || !ok || len(text) > maxString {
			return lies("a reply of type %d with %d bytes", kind, len(data))
		}
		if total += len(data); total > maxListing {
			return fmt.Errorf("a list of exports longer than %d bytes", maxListing)
		}
		names = append(names, ExportInfo{Name: name, Description: clip(string(text))})
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range names {
		if err := h.fillIn(&names[i]); err != nil {
			return nil, err
		}
	}
	h.abort()
	return names, nil
}

// fillIn adds what the server tells of an export in its list. Where it tells no more than the name, that is all there is.
func (h *handshake) fillIn(x *ExportInfo) error {
	h.forget(x.Name)
	err := h.describe(optInfo, x.Name)
	if refused(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if h.agreed.info.Description == "" {
		h.agreed.info.Description = x.Description
	}
	name := x.Name
	if *x = h.agreed.info; h.agreed.form == formSimple {
		return nil
	}
	err = h.metaContext(optListMetaContext, name, nil, func(_ uint32, context string) error {
		x.Contexts = append(x.Contexts, context)
		return nil
	})
	if refused(err) {
		return nil
	}
	return err
}
