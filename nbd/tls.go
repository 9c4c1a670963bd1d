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

const (
	// maxRecord is the most that one TLS record holds.
	maxRecord = 16 << 10
	// recordsBatch is how many bytes of records leave with one call: enough to make the calls' cost vanish, and little enough
	// to be in the processor's cache still.
	recordsBatch = 128 << 10
)

// tlsConn is a connection with TLS. Replies leave in full records, which are encrypted from where the data is, several
// with one call.
type tlsConn struct {
	*tls.Conn
	records *records
	part    []byte // of several replies, for one record
}

// newTLSConn does the server's part of the handshake on conn, until the connection's deadline.
func newTLSConn(ctx context.Context, conn net.Conn, config *tls.Config) (*tlsConn, error) {
	records := &records{Conn: conn}
	records.r = bufio.NewReaderSize(received{records}, readAhead)
	c := &tlsConn{Conn: tls.Server(records, config), records: records}
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return c, nil
}

// writeBuffers writes all of b, and consumes it. It has persist make each call that may have to wait for the client.
func (c *tlsConn) writeBuffers(b *net.Buffers, persist func(write func() (int64, error)) error) error {
	for len(*b) > 0 {
		c.records.hold()
		var err error
		for err == nil && len(*b) > 0 && !c.records.full() {
			_, err = c.Conn.Write(c.next(b))
		}
		if err := errors.Join(err, persist(c.records.flush)); err != nil {
			return err
		}
	}
	return nil
}

// next takes what fills the next record from b, as far as there is that much.
func (c *tlsConn) next(b *net.Buffers) []byte {
	if p := (*b)[0]; len(p) >= maxRecord {
		p = p[:maxRecord]
		consume(b, maxRecord)
		return p
	}
	c.part = c.part[:0]
	for len(*b) > 0 && len(c.part) < maxRecord {
		p := (*b)[0]
		p = p[:min(len(p), maxRecord-len(c.part))]
		c.part = append(c.part, p...)
		consume(b, len(p))
	}
	return c.part
}

// records is what lies below TLS: it reads ahead, and keeps records back so that they leave together.
type records struct {
	net.Conn
	r *bufio.Reader

	mu      sync.Mutex // guards what follows; it is never held while waiting for the client
	holding bool
	held    []byte // kept back
	sent    int    // bytes of held that have left
}

// received reads from what lies below records.
type received struct{ r *records }

func (r received) Read(p []byte) (int, error) { return r.r.Conn.Read(p) }

// Read reads what was received.
func (r *records) Read(p []byte) (int, error) { return r.r.Read(p) }

// Write writes records, which are kept back from hold until flush is done: those of the writer, and alerts.
func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	if r.holding {
		defer r.mu.Unlock()
		r.held = append(r.held, p...)
		return len(p), nil
	}
	r.mu.Unlock()
	return r.Conn.Write(p)
}

// hold has records kept back.
func (r *records) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holding = true
}

// full says whether enough is kept back.
func (r *records) full() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.held) >= recordsBatch
}

// flush writes what was kept back, and returns how much it has written. When the deadline for writing was over it may be
// called again.
func (r *records) flush() (sent int64, err error) {
	for err == nil {
		p := r.next()
		if p == nil {
			break
		}
		var n int
		n, err = r.Conn.Write(p)
		sent += int64(n)
		r.took(n)
	}
	return sent, err
}

// next returns what is kept back. When that is nothing, no more is kept.
func (r *records) next() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sent < len(r.held) {
		return r.held[r.sent:]
	}
	r.holding, r.held, r.sent = false, r.held[:0], 0
	return nil
}

// took takes note of n bytes that have left.
func (r *records) took(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent += n
}
