// Package seal encrypts and authenticates the datagrams of a group that has a key, between the bytes of package wire and the sockets
// of package udp: who lacks the key learns no byte, no name and no number of images, and is not listened to.
//
// Each datagram is sealed alone, after its symbol was coded, so that any of them can be lost. What seals them is AES-256-GCM under a
// key of each Sealer's own: HKDF-SHA256 of the group's key and of 16 bytes that are random at each start. So the nonce can be a
// plain counter that nobody has to remember over a restart: two Sealers never share a key, and one never repeats a number.
// The same counter is what replays are told by. docs/protocol.md has the bytes.
//
// What was not done: no sealing of whole blocks, which would cost less but could not be opened with a symbol missing, nor be repaired
// with parity before it was checked; no handshake between two hosts, because a group has no two sides.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync/atomic"

	"github.com/dnbd/dnbd/internal/wire"
)

// The layout of a sealed datagram: offsets and sizes in bytes. What is sealed lacks its first prefix bytes, magic and version, which
// are those of the datagram around it.
const (
	prefix     = 3
	keyIDAt    = 4
	saltAt     = 8
	saltSize   = 16
	counterAt  = 24
	nonceAt    = 20 // the end of the salt, and the counter
	headerSize = 32
	tagSize    = 16

	// Overhead is how many bytes longer a datagram is when it is sealed.
	Overhead = headerSize - prefix + tagSize
)

// Role is the side that seals: its datagrams are told apart by their type, and have keys of their own.
type Role wire.Type

// The roles.
const (
	Server = Role(wire.TypeSealedServer)
	Client = Role(wire.TypeSealedClient)
)

// Sealer seals the datagrams that one process sends in one role. The datagrams of a Sealer should go one way, through one socket:
// a receiver takes one for a replay that comes a window behind the others. A nil Sealer leaves datagrams as they are. It may be used
// by many goroutines at once.
type Sealer struct {
	ring *Ring
	role Role
	now  atomic.Pointer[sealing]
}

// sealing is a Sealer under one key.
type sealing struct {
	key     *Key
	header  [counterAt]byte
	aead    cipher.AEAD
	counter atomic.Uint64
}

// NewSealer returns a Sealer under the first key of a ring; nil for a nil ring.
func (r *Ring) NewSealer(role Role) *Sealer {
	if r == nil {
		return nil
	}
	return &Sealer{ring: r, role: role}
}

// Overhead is how much longer the Sealer makes a datagram, in bytes.
func (s *Sealer) Overhead() int {
	if s == nil {
		return 0
	}
	return Overhead
}

// Seal appends to dst the datagram that head and body make up together, sealed. It allocates nothing where dst has the room.
func (s *Sealer) Seal(dst, head, body []byte) []byte {
	if s == nil {
		return append(append(dst, head...), body...)
	}
	c := s.current()
	from := len(dst)
	dst = append(dst, c.header[:]...)
	dst = binary.BigEndian.AppendUint64(dst, c.counter.Add(1))
	dst = append(append(dst, head[prefix:]...), body...)
	h := dst[from:][:headerSize]
	return c.aead.Seal(dst[:from+headerSize], h[nonceAt:], dst[from+headerSize:], h)
}

// Control returns a sealed control datagram. The length of those that tell of images is the same whatever they tell.
func (s *Sealer) Control(b []byte) []byte {
	if s == nil {
		return b
	}
	return s.Seal(make([]byte, 0, wire.MaxControlSize+Overhead), b, padding[:max(wire.SealedSize(b)-len(b), 0)])
}

var padding [wire.MaxControlSize]byte // zeros, never written

// current is the Sealer under what is the first key now.
func (s *Sealer) current() *sealing {
	key := &(*s.ring.keys.Load())[0]
	c := s.now.Load()
	if c != nil && c.key == key {
		return c
	}
	next := &sealing{key: key}
	binary.BigEndian.PutUint16(next.header[:], wire.Magic)
	next.header[2], next.header[3] = wire.Version, byte(s.role)
	binary.BigEndian.PutUint32(next.header[keyIDAt:], key.ID)
	rand.Read(next.header[saltAt:])
	next.aead = key.aead(s.role, next.header[saltAt:])
	if !s.now.CompareAndSwap(c, next) {
		return s.current() // another goroutine was faster
	}
	return next
}

// aead is the cipher of a Sealer with this salt.
func (k *Key) aead(role Role, salt []byte) cipher.AEAD {
	info := "dnbd 1 server"
	if role == Client {
		info = "dnbd 1 client"
	}
	sub, err := hkdf.Key(sha256.New, k.Secret[:], salt, info, 32)
	if err != nil {
		panic("seal: " + err.Error()) // only for lengths that HKDF cannot have
	}
	block, err := aes.NewCipher(sub)
	if err != nil {
		panic("seal: " + err.Error()) // only for lengths that AES cannot have
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("seal: " + err.Error()) // only for ciphers that are not AES
	}
	return aead
}
