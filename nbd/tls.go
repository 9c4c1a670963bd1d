package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
)

// TLSMode is when a server uses TLS, "TLS support".
type TLSMode int

// The modes of a server.
const (
	TLSOff      TLSMode = iota // never
	TLSOn                      // when the client asks for it
	TLSRequired                // always: clients are told nothing without
)

// needTLS is what a client hears that has to use TLS.
const needTLS = "this server requires TLS"

// needsTLS says whether option must be refused until TLS is in use.
func (n *negotiation) needsTLS(option uint32) bool {
	return n.tls == TLSRequired && !n.secure && option != optStartTLS && option != optAbort
}

// offerTLS answers STARTTLS. When it says yes, n.upgrading is set.
func (n *negotiation) offerTLS() {
	switch {
	case len(n.data) > 0:
		n.refuse(optStartTLS, repErrInvalid, "this option takes no data")
	case n.secure:
		n.refuse(optStartTLS, repErrInvalid, "TLS is in use")
	case n.tls == TLSOff || !n.fixed:
		n.refuse(optStartTLS, repErrPolicy, "this server does without TLS")
	default:
		n.reply(optStartTLS, repAck, nil)
		n.upgrading = true
	}
}

// startTLS turns the connection into one with TLS. What was agreed on before is forgotten, and what was sent before its
// time is fatal: somebody else than the client may have put it there.
func (n *negotiation) startTLS() error {
	if k := n.r.Buffered(); k > 0 {
		return fmt.Errorf("negotiate: %d bytes in the clear after STARTTLS: %w", k, errBroken)
	}
	if err := n.waiting(); err != nil {
		return err
	}
	r, w, err := n.upgrade()
	if err != nil {
		return fmt.Errorf("negotiate: %w", err)
	}
	n.r, n.w = r, w
	n.upgrading, n.secure = false, true
	n.session, n.selected, n.selectedFor = session{}, nil, ""
	return nil
}

// recordBuffer is how much of a batch of replies is encrypted before it is handed to the system: crypto/tls does so for
// each record of 16 KiB.
const recordBuffer = 256 << 10

// maxRecord is the most that one TLS record holds.
const maxRecord = 16 << 10

// tlsConn is a connection with TLS whose records are full, go out several at a time, and come in so.
type tlsConn struct {
	*tls.Conn
	w       *bufio.Writer // to Conn
	records *records
}

// newTLSConn does the server's part of the handshake on conn, until the connection's deadline.
func newTLSConn(ctx context.Context, conn net.Conn, config *tls.Config) (*tlsConn, error) {
	records := &records{Conn: conn}
	records.r = bufio.NewReaderSize(received{records}, readAhead)
	c := &tlsConn{Conn: tls.Server(records, config), records: records}
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	c.w = bufio.NewWriterSize(c.Conn, maxRecord)
	return c, nil
}

// writeBuffers writes all of b, and consumes it. It calls waiting each time before it waits for the client.
func (c *tlsConn) writeBuffers(b *net.Buffers, waiting func()) error {
	c.records.hold(waiting)
	_, err := b.WriteTo(c.w)
	return errors.Join(err, c.w.Flush(), c.records.release())
}

// records is what lies below TLS. While it is held, what is written stays in a buffer as long as there is room.
type records struct {
	net.Conn
	r *bufio.Reader

	mu      sync.Mutex // guards what follows, and writing to Conn: replies and TLS's own messages have different writers
	waiting func()     // while held, otherwise nil
	buf     []byte
}

// received reads from what lies below records.
type received struct{ r *records }

func (r received) Read(p []byte) (int, error) { return r.r.Conn.Read(p) }

// Read reads what was received.
func (r *records) Read(p []byte) (int, error) { return r.r.Read(p) }

// Write writes p, or keeps it.
func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		return r.Conn.Write(p)
	}
	r.buf = append(r.buf, p...)
	if len(r.buf) < recordBuffer {
		return len(p), nil
	}
	return len(p), r.flushLocked()
}

// hold makes writes wait for release. waiting is called before the client is waited for meanwhile.
func (r *records) hold(waiting func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = waiting
}

// release writes what was kept.
func (r *records) release() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.waiting = nil }()
	return r.flushLocked()
}

// flushLocked writes what was kept.
func (r *records) flushLocked() error {
	if len(r.buf) == 0 {
		return nil
	}
	r.waiting()
	_, err := r.Conn.Write(r.buf)
	r.buf = r.buf[:0]
	return err
}
