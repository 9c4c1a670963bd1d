package sim

import (
	"bytes"
	"net/netip"

	"github.com/dnbd/dnbd/internal/seal"
)

// seals are what stands between a machine and its node in a world with a key, as it stands between a machine and its sockets in reality.
type seals struct {
	sealer *seal.Sealer
	opener *seal.Opener
}

// seals returns those of a server or a client. Where the world has no key they change nothing.
func (w *World) seals(role, other seal.Role) seals {
	return seals{w.Keys.NewSealer(role), w.Keys.NewOpener(other)}
}

// opened is input behind the seals.
func (s seals) opened(input func(from netip.AddrPort, data []byte)) func(from netip.AddrPort, data []byte) {
	if s.sealer == nil {
		return input // thousands of machines are not to pay for it
	}
	return func(from netip.AddrPort, data []byte) {
		// Others hear the same bytes, which are opened in their place.
		for _, b := range s.opener.Open([][]byte{bytes.Clone(data)}) {
			input(from, b)
		}
	}
}
