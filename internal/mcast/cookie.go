package mcast

import (
	"encoding/binary"
	"net/netip"

	"github.com/zeebo/blake3"
)

// A cookieJar bakes the cookies by which a client proves that it receives at its address: a keyed BLAKE3 over address and
// epoch, cut to 8 bytes. The server stores nothing for them.
type cookieJar struct {
	hasher *blake3.Hasher
	epoch  uint32
}

func newCookieJar(secret [32]byte, epoch uint32) *cookieJar {
	h, err := blake3.NewKeyed(secret[:])
	if err != nil {
		panic("mcast: " + err.Error()) // only for a key that is not 32 bytes
	}
	return &cookieJar{hasher: h, epoch: epoch}
}

// cookie returns the cookie of an address; it is never 0, which stands for none.
func (j *cookieJar) cookie(addr netip.AddrPort) uint64 {
	var in [22]byte
	ip := addr.Addr().As16()
	copy(in[:], ip[:])
	binary.BigEndian.PutUint16(in[16:], addr.Port())
	binary.BigEndian.PutUint32(in[18:], j.epoch)
	j.hasher.Reset()
	j.hasher.Write(in[:])
	var sum [8]byte
	j.hasher.Digest().Read(sum[:])
	return max(binary.BigEndian.Uint64(sum[:]), 1)
}
