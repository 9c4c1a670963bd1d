// Package udp has the sockets of a group: datagrams in and out, in trains where the system can, with the kernel's drops
// counted. The protocol machines above it have no sockets of their own; this is all they are given.
//
// A machine that serves or reads has two kinds of Conn. One from ListenUnicast has an address and port of its own: it
// sends everything, to the group and to single peers, and hears what is sent to that address. One from ListenGroup only
// hears what is sent to the group.
//
// On Linux a train of datagrams leaves with one system call and no copy per datagram (UDP segmentation offload, GSO), or
// with sendmmsg where GSO is refused, and arrives coalesced (GRO), or many at once (recvmmsg). Elsewhere, every datagram
// is a call. What is on the wire is the same. Nothing is ever fragmented: what exceeds the interface's MTU fails with
// EMSGSIZE.
package udp

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"
)

const (
	// MessageSize is the capacity in bytes that Read wants: the largest datagram, or train of coalesced ones, there is.
	MessageSize = 64 << 10
	// Batch is how many messages Read can fill at once. At 200 Mbit/s that is a millisecond of datagrams that come one by one.
	Batch = 16

	// DefaultReadBuffer and DefaultWriteBuffer are in bytes, as asked of the system. It charges what a datagram occupies, not
	// its payload, but Linux grants twice what it is asked for: 16 MiB hold 31 MiB of coalesced trains, or 19 MiB of
	// payload in single datagrams of 1440 bytes, which is what arrives at 10 Gbit/s in 16 ms. With bursts of 64 KiB
	// at that rate and three other processes for each processor, a reader lost nothing with 16 MiB, up to 1 % with 8 MiB and up to
	// 9 % with 4 MiB (BenchmarkGroup).
	DefaultReadBuffer = 16 << 20
	// The write buffer is what a sender that is faster than its link queues in its own host, ahead of any later repair:
	// 1 MiB is 40 ms at 200 Mbit/s, and sixteen trains at 10 Gbit/s.
	DefaultWriteBuffer = 1 << 20

	// DefaultTTL keeps multicast on the local network.
	DefaultTTL = 1
)

// ErrFull is what Send returns, wrapped, when the write buffer has no room. Nothing was sent. Control messages are
// repeated by their protocol, so callers count it and go on.
var ErrFull = errors.New("write buffer full")

// Options are the choices at Listen. The zero value asks for the defaults.
type Options struct {
	ReadBuffer  int  // bytes asked for; 0 is DefaultReadBuffer
	WriteBuffer int  // bytes asked for; 0 is DefaultWriteBuffer
	TTL         int  // of multicast, in hops; 0 is DefaultTTL
	NoGSO       bool // give the system each datagram as a packet of its own
	NoGRO       bool // do not ask for coalesced trains

	// Log is told, once per Conn, of each speed-up that the system turned out to refuse. Nil is slog.Default().
	Log *slog.Logger
}

// OptionsFromEnv returns the defaults with what the environment switches off: DNBD_NO_GSO=1 and DNBD_NO_GRO=1.
func OptionsFromEnv() Options {
	return Options{NoGSO: os.Getenv("DNBD_NO_GSO") == "1", NoGRO: os.Getenv("DNBD_NO_GRO") == "1"}
}

// withDefaults returns o with its zero fields filled in.
func (o Options) withDefaults() Options {
	if o.ReadBuffer == 0 {
		o.ReadBuffer = DefaultReadBuffer
	}
	if o.WriteBuffer == 0 {
		o.WriteBuffer = DefaultWriteBuffer
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// Message is one datagram, or a train of datagrams from one sender that arrived coalesced.
type Message struct {
	// Data holds the train. The caller gives it a capacity of MessageSize or more; Read sets its length. Reading into the
	// same Message again overwrites it.
	Data []byte
	// Segment is the size in bytes of each datagram in Data but the last, which may be shorter.
	Segment int
	// From is who sent it. A link-local IPv6 address has its zone.
	From netip.AddrPort
	// IfIndex is the interface that it came in by, 0 where the system does not tell.
	IfIndex int
	// Arrived is when its first datagram reached the host, which may be long before it is read on a busy one. Where the system does
	// not tell it is when Read returned.
	Arrived time.Time
}

// NewMessage returns a Message that Read can use.
func NewMessage() *Message { return &Message{Data: make([]byte, 0, MessageSize)} }

// NewBatch returns as many as Read can use at once. Memory is taken only where something is read.
func NewBatch() []*Message {
	ms := make([]*Message, Batch)
	for i := range ms {
		ms[i] = NewMessage()
	}
	return ms
}

// checkRoom fails if Read cannot store a message in each of ms.
func (c *Conn) checkRoom(ms []*Message) error {
	if len(ms) == 0 {
		return fmt.Errorf("read from %v into no message: %w", c.local, io.ErrShortBuffer)
	}
	for _, m := range ms {
		if cap(m.Data) < MessageSize {
			return fmt.Errorf("read from %v into %d bytes, want %d: %w", c.local, cap(m.Data), MessageSize, io.ErrShortBuffer)
		}
	}
	return nil
}

// Segments appends the datagrams of the train to dst, in order. They are slices of Data.
func (m *Message) Segments(dst [][]byte) [][]byte {
	if m.Segment <= 0 {
		return dst
	}
	for rest := m.Data; len(rest) > 0; {
		n := min(m.Segment, len(rest))
		dst = append(dst, rest[:n:n])
		rest = rest[n:]
	}
	return dst
}
