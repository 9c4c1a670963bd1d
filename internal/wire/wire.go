// Package wire turns the protocol's datagrams into structs and back. It knows bytes and nothing else: no sockets, no state, no
// meaning. docs/protocol.md gives the same layouts in prose.
//
// Numbers are big-endian. Every datagram starts with four bytes: magic, version, type. Parsers take any input, check its
// length before anything else, and allocate nothing that the input's length does not bound.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Fixed numbers of the protocol.
const (
	Magic   uint16 = 0x444e // "DN"
	Version uint8  = 1

	// Port is the UDP port of discovery, of every data group and, where it is free, of the servers.
	Port = 10810
)

// Type says what a datagram is: its fourth byte.
type Type uint8

// The datagram types.
const (
	TypeHello    Type = 1 // client to group or server: who offers this image?
	TypeWelcome  Type = 2 // server to client: I do, and this is your cookie
	TypeAnnounce Type = 3 // server to group, each second: I am here
	TypeWant     Type = 4 // client to server: send these blocks; and what arrived so far
	TypeData     Type = 5 // server to data group: one symbol of a block
	TypeAck      Type = 6 // server to client: your WANT arrived, and when to expect its blocks
	TypeDeny     Type = 7 // server to client: no, because

	TypeSealedServer Type = 8 // any of them that a server sent, sealed with the group's key; see package seal
	TypeSealedClient Type = 9 // any of them that a client sent

	TypeCommand Type = 10 // operator to server: do this
	TypeAnswer  Type = 11 // server to operator: done
)

// Sizes in bytes.
const (
	prefixSize = 4

	helloFixed     = 64   // twice of what answers an unproven address
	MaxName        = 128  // of an image
	MaxSignature   = 1024 // of an image's descriptor: an offer with it fits a datagram
	welcomeFixed   = 32
	offerFixed     = 80
	announceFixed  = 32
	announceEntry  = 12
	wantFixed      = 48
	wantRange      = 8
	DataHeaderSize = 30
	AckSize        = 40
	DenySize       = 32
	MaxControlSize = 1400 // no control datagram is larger
	MaxWantRanges  = (MaxControlSize - wantFixed) / wantRange
)

// MaxSeq is the largest sequence number, 2^48-1: ten years of a million symbols a second.
const MaxSeq = 1<<48 - 1

// The ways in which a datagram is not one of ours.
var (
	ErrForeign = errors.New("not a dnbd datagram")
	ErrVersion = errors.New("another protocol version")
	ErrLength  = errors.New("wrong length for its type")
	ErrValue   = errors.New("a field has no valid value")
)

// TypeOf returns the type of datagram b, or why it is none of ours.
func TypeOf(b []byte) (Type, error) {
	switch {
	case len(b) < prefixSize || binary.BigEndian.Uint16(b) != Magic:
		return 0, ErrForeign
	case b[2] != Version:
		return 0, fmt.Errorf("version %d: %w", b[2], ErrVersion)
	}
	return Type(b[3]), nil
}

func appendPrefix(b []byte, t Type) []byte {
	b = binary.BigEndian.AppendUint16(b, Magic)
	return append(b, Version, byte(t))
}

func appendUint48(b []byte, v uint64) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(v>>32))
	return binary.BigEndian.AppendUint32(b, uint32(v))
}

func uint48(b []byte) uint64 {
	return uint64(binary.BigEndian.Uint16(b))<<32 | uint64(binary.BigEndian.Uint32(b[2:]))
}

// expect checks that b is a datagram of type t with at least n bytes.
func expect(b []byte, t Type, n int) error {
	got, err := TypeOf(b)
	if err != nil {
		return err
	}
	if got != t {
		return fmt.Errorf("type %d where %d was expected: %w", got, t, ErrValue)
	}
	if len(b) < n {
		return fmt.Errorf("type %d with %d bytes: %w", t, len(b), ErrLength)
	}
	return nil
}
