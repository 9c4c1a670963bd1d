package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
)

const (
	// maxOption is the longest option that is looked at: a name of 4096 bytes, and room for a list of queries.
	maxOption = 8 << 10
	// maxSkippedOption is the longest option that is read to its end, to answer that it is too big. What claims to be longer
	// ends the connection.
	maxSkippedOption = 1 << 20
	// maxOptions ends a negotiation that goes nowhere. Real clients need fewer than ten, those that list all exports a few
	// for each.
	maxOptions = 1024
)

// session is what a client and the server have agreed on.
type session struct {
	export   Export
	can      capabilities
	style    replyStyle
	contexts []selection
}

// extended says whether extended headers were agreed on.
func (s *session) extended() bool { return s.style == styleExtended }

// errAborted is returned by a negotiation that the client ended as the protocol wants it.
var errAborted = errors.New("client left")

// negotiation is the fixed newstyle handshake of one connection. It is used by one goroutine.
type negotiation struct {
	exports *exports
	noList  bool // clients may not ask which there are
	r       *bufio.Reader
	w       io.Writer
	// waiting is called each time before the negotiation waits for the client.
	waiting func() error

	// tls says what STARTTLS means; upgrade does it, and returns what n.r and n.w are from then on.
	tls     TLSMode
	upgrade func() (*bufio.Reader, io.Writer, error)

	// ctx is the connection's and client its other end: Open is given them (open.go).
	ctx     context.Context
	client  net.Addr
	log     *slog.Logger
	release func() // gives back what it opened; nil when there is nothing

	session     session
	fixed       bool        // the client understands replies to options
	noZeroes    bool        // it wants no padding
	secure      bool        // TLS is in use
	upgrading   bool        // TLS is what comes after the answer
	selected    []selection // metadata contexts
	selectedFor string      // the export for which they were
	data        []byte      // of the option that is being answered; reused
	out         []byte      // the answer so far; reused
}

// run talks to the client until it has chosen an export. The error says why it has not: errAborted, errBroken or one of
// the connection.
func (n *negotiation) run() (session, error) {
	if err := n.greet(); err != nil {
		return session{}, err
	}
	for range maxOptions {
		done, err := n.option()
		if err != nil {
			return session{}, err
		}
		if done {
			return n.session, nil
		}
	}
	return session{}, fmt.Errorf("negotiate: more than %d options: %w", maxOptions, errBroken)
}

// greet exchanges flags, "Newstyle negotiation".
func (n *negotiation) greet() error {
	b := binary.BigEndian.AppendUint64(n.out[:0], magicServer)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	n.out = binary.BigEndian.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
	if err := n.flush(); err != nil {
		return err
	}
	var raw [4]byte
	if err := n.read(raw[:], "client flags"); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(raw[:])
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return fmt.Errorf("negotiate: unknown client flags 0x%x: %w", flags, errBroken)
	}
	n.fixed, n.noZeroes = flags&flagFixedNewstyle != 0, flags&flagNoZeroes != 0
	if n.tls == TLSRequired && !n.fixed {
		return fmt.Errorf("negotiate: a client that cannot use TLS, which is required: %w", errBroken)
	}
	return nil
}

// option reads one option and answers it. It returns true when the session is agreed on.
func (n *negotiation) option() (done bool, err error) {
	var head [lenOptionHeader]byte
	if err := n.read(head[:], "option"); err != nil {
		return false, err
	}
	if magic := binary.BigEndian.Uint64(head[:]); magic != magicOption {
		return false, fmt.Errorf("negotiate: option with magic 0x%016x: %w", magic, errBroken)
	}
	option, length := binary.BigEndian.Uint32(head[8:]), binary.BigEndian.Uint32(head[12:])
	if length > maxOption {
		return false, n.skip(option, length)
	}
	n.data = append(n.data[:0], make([]byte, length)...)
	if err := n.read(n.data, "option's data"); err != nil {
		return false, err
	}
	n.out = n.out[:0]
	done, err = n.answer(option)
	if err != nil && !errors.Is(err, errAborted) {
		return false, err
	}
	if err := errors.Join(n.flush(), err); err != nil || !n.upgrading {
		return done, err
	}
	return false, n.startTLS()
}

// skip answers an option that is too long to be looked at.
func (n *negotiation) skip(option, length uint32) error {
	if length > maxSkippedOption || option == optExportName {
		return fmt.Errorf("negotiate: option %d of %d bytes: %w", option, length, errBroken)
	}
	if err := n.waiting(); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, n.r, int64(length)); err != nil {
		return fmt.Errorf("negotiate: read option: %w", err)
	}
	n.out = n.out[:0]
	if n.needsTLS(option) {
		n.refuse(option, repErrTLSReqd, needTLS)
	} else {
		n.refuse(option, repErrTooBig, fmt.Sprintf("option of %d bytes, at most %d are taken", length, maxOption))
	}
	return n.flush()
}

// answer appends the answer to an option to n.out. Its data is n.data.
func (n *negotiation) answer(option uint32) (done bool, err error) {
	if n.needsTLS(option) {
		if option == optExportName {
			return false, fmt.Errorf("negotiate: EXPORT_NAME without TLS, which is required: %w", errBroken)
		}
		n.refuse(option, repErrTLSReqd, needTLS)
		return false, nil
	}
	switch option {
	case optExportName:
		return n.exportName()
	case optAbort:
		n.reply(option, repAck, nil)
		return false, errAborted
	case optList:
		n.list()
	case optInfo, optGo:
		return n.info(option), nil
	case optStartTLS:
		n.offerTLS()
	case optStructuredReply:
		n.agree(option, styleStructured)
	case optExtendedHeaders:
		n.agree(option, styleExtended)
	case optListMetaContext, optSetMetaContext:
		n.metaContext(option)
	default:
		n.refuse(option, repErrUnsup, fmt.Sprintf("option %d is not known here", option))
	}
	return false, nil
}

// agree answers STRUCTURED_REPLY and EXTENDED_HEADERS. There is no way back from the latter.
func (n *negotiation) agree(option uint32, style replyStyle) {
	switch {
	case len(n.data) > 0:
		n.refuse(option, repErrInvalid, "this option takes no data")
	case style < n.session.style:
		n.refuse(option, repErrExtHeadersReqd, "extended headers were agreed on")
	default:
		n.session.style = style
		n.reply(option, repAck, nil)
	}
}

// choose makes x the export of the session.
func (n *negotiation) choose(x Export) {
	n.session.export = x
	n.session.can = x.capabilities()
	n.session.contexts = n.contextsOf(&x)
}

// flags are the "Transmission flags" of x for this client.
func (n *negotiation) flags(x *Export) uint16 {
	flags := x.Flags()
	switch {
	case x.Open != nil && x.Shared:
		flags |= exportMultiConn
	case x.Open != nil:
		flags &^= exportMultiConn
	}
	if n.session.style != styleSimple {
		flags |= exportDF
	}
	if n.session.extended() && len(n.contextsOf(x)) > 0 {
		flags |= exportBlockStatusPayload
	}
	return flags
}

// exportName answers EXPORT_NAME, which has no way to say no but to hang up.
func (n *negotiation) exportName() (done bool, err error) {
	export, ok := n.exports.find(string(n.data))
	if !ok {
		return false, fmt.Errorf("negotiate: no export named %q: %w", clip(string(n.data)), errBroken)
	}
	if n.session.extended() {
		return false, fmt.Errorf("negotiate: EXPORT_NAME with extended headers, which need GO: %w", errBroken)
	}
	if export, err = n.open(export); err != nil {
		return false, fmt.Errorf("negotiate: export %q: %w", export.Name, err)
	}
	n.choose(export)
	n.out = binary.BigEndian.AppendUint64(n.out, uint64(export.Device.Size()))
	n.out = binary.BigEndian.AppendUint16(n.out, n.flags(&export))
	if !n.noZeroes {
		n.out = append(n.out, make([]byte, lenZeroes)...)
	}
	return true, nil
}

// list answers LIST.
func (n *negotiation) list() {
	if len(n.data) > 0 {
		n.refuse(optList, repErrInvalid, "this option takes no data")
		return
	}
	if n.noList {
		n.refuse(optList, repErrPolicy, "this server does not list its exports; ask for one by its name")
		return
	}
	for _, e := range n.exports.all() {
		if e.Hidden || e.NeedsTLS && !n.secure {
			continue
		}
		b := binary.BigEndian.AppendUint32(nil, uint32(len(e.Name)))
		b = append(b, e.Name...)
		n.reply(optList, repServer, append(b, e.Description...))
	}
	n.reply(optList, repAck, nil)
}

// info answers INFO and GO. It returns true when a GO succeeded.
func (n *negotiation) info(option uint32) (done bool) {
	name, rest, ok := cutString(n.data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		n.refuse(option, repErrInvalid, "lengths in this option do not add up")
		return false
	}
	export, ok := n.exports.find(name)
	if !ok {
		n.refuse(option, repErrUnknown, fmt.Sprintf("no export named %q", name))
		return false
	}
	export, err := n.open(export)
	if err != nil {
		n.refuseOpen(option, err)
		return false
	}

	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(export.Device.Size()))
	n.reply(option, repInfo, binary.BigEndian.AppendUint16(b, n.flags(&export)))
	var sent [infoBlockSize + 1]bool // a client that repeats a request is not told twice
	for wanted := rest[2:]; len(wanted) > 0; wanted = wanted[2:] {
		kind := binary.BigEndian.Uint16(wanted)
		if int(kind) < len(sent) && !sent[kind] {
			sent[kind] = true
			n.detail(option, kind, export)
		}
	}
	n.reply(option, repAck, nil)
	if option == optGo {
		n.choose(export)
		return true
	}
	n.close()
	return false
}

// detail appends one piece of information about export that the client asked for.
func (n *negotiation) detail(option uint32, kind uint16, export Export) {
	b := binary.BigEndian.AppendUint16(nil, kind)
	switch kind {
	case infoName:
		b = append(b, export.Name...)
	case infoDescription:
		if export.Description == "" {
			return
		}
		b = append(b, export.Description...)
	case infoBlockSize:
		b = binary.BigEndian.AppendUint32(b, 1)
		b = binary.BigEndian.AppendUint32(b, export.BlockSize)
		b = binary.BigEndian.AppendUint32(b, maxPayload)
	default:
		return
	}
	n.reply(option, repInfo, b)
}

// cutString cuts a string with its length before it off b.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	length, b := binary.BigEndian.Uint32(b), b[4:]
	if length > maxString || int(length) > len(b) {
		return "", nil, false
	}
	return string(b[:length]), b[length:], true
}

// reply appends one reply to the option to n.out.
func (n *negotiation) reply(option, kind uint32, data []byte) {
	b := binary.BigEndian.AppendUint64(n.out, magicOptReply)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	n.out = append(b, data...)
}

// refuse appends an error reply with a text for the client's user.
func (n *negotiation) refuse(option, kind uint32, text string) {
	n.reply(option, kind, []byte(clip(text)))
}

// flush sends n.out.
func (n *negotiation) flush() error {
	if _, err := n.w.Write(n.out); err != nil {
		return fmt.Errorf("negotiate: write answer: %w", err)
	}
	return nil
}

// read fills b from the client.
func (n *negotiation) read(b []byte, what string) error {
	if err := n.waiting(); err != nil {
		return err
	}
	if _, err := io.ReadFull(n.r, b); err != nil {
		return fmt.Errorf("negotiate: read %s: %w", what, err)
	}
	return nil
}
