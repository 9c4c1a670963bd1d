package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
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

// maxRecord is the most that one TLS record holds.
const maxRecord = 16 << 10

// tlsConn is a connection with TLS. Replies leave in full records, which are encrypted from where the data is.
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

// writeBuffers writes all of b, and consumes it. It calls waiting each time before it may have to wait for the client.
func (c *tlsConn) writeBuffers(b *net.Buffers, waiting func()) error {
	for len(*b) > 0 {
		waiting()
		if _, err := c.Conn.Write(c.next(b)); err != nil {
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

// records is what lies below TLS: it reads ahead.
type records struct {
	net.Conn
	r *bufio.Reader
}

// received reads from what lies below records.
type received struct{ r *records }

func (r received) Read(p []byte) (int, error) { return r.r.Conn.Read(p) }

// Read reads what was received.
func (r *records) Read(p []byte) (int, error) { return r.r.Read(p) }
