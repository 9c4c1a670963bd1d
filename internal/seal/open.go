package seal

import (
	"crypto/cipher"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dnbd/dnbd/internal/wire"
)

// maxSenders bounds the senders that an Opener remembers, which take about a kilobyte each. Then it forgets the one that has been silent
// for longest; only those who have the key can make it.
const maxSenders = 16384

// Opener opens the sealed datagrams of one role that a process receives, each once. It may be used by many goroutines at once.
type Opener struct {
	ring *Ring
	role Role

	foreign, plain, forged, replayed atomic.Uint64

	mu      sync.Mutex // guards what follows
	keys    *[]Key     // that senders have
	senders map[[saltSize]byte]*sender
	clock   uint64 // datagrams opened
}

// sender is a Sealer at another process.
type sender struct {
	salt   [saltSize]byte
	key    uint32
	aead   cipher.AEAD
	window window
	heard  uint64 // the clock then
}

// Stats counts the datagrams that an Opener refused.
type Stats struct {
	Foreign  uint64 // sealed under a key that is not here
	Plain    uint64 // not sealed, where there is a key
	Forged   uint64 // changed on the way, or sealed by somebody who has not the key
	Replayed uint64 // here before, or too late to tell
}

// NewOpener returns an Opener of what is sealed in a role. That of a nil ring takes what is not sealed.
func (r *Ring) NewOpener(role Role) *Opener {
	return &Opener{ring: r, role: role, senders: map[[saltSize]byte]*sender{}}
}

// Stats returns the counts so far.
func (o *Opener) Stats() Stats {
	return Stats{Foreign: o.foreign.Load(), Plain: o.plain.Load(), Forged: o.forged.Load(), Replayed: o.replayed.Load()}
}

// Open opens the datagrams of a train, each in its place: what it holds is written over the sealed bytes. It returns those that are let
// in, in the same slice. What the other role sealed is left out silently, as those who lack the key would. It allocates nothing where the
// senders are known.
func (o *Opener) Open(train [][]byte) [][]byte {
	opened := train[:0]
	if o.ring == nil {
		for _, b := range train {
			if isSealed(b) {
				o.foreign.Add(1)
				continue
			}
			opened = append(opened, b)
		}
		return opened
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.renew()
	var last *sender // a train has one sender mostly
	for _, b := range train {
		switch {
		case !isSealed(b):
			if _, err := wire.TypeOf(b); err == nil {
				o.plain.Add(1)
			}
		case b[3] != byte(o.role):
		case len(b) <= headerSize+tagSize:
			o.forged.Add(1)
		default:
			if b, last = o.open(b, last); b != nil {
				opened = append(opened, b)
			}
		}
	}
	return opened
}

// isSealed says whether a datagram is, by whomever.
func isSealed(b []byte) bool {
	t, err := wire.TypeOf(b)
	return err == nil && (t == wire.TypeSealedServer || t == wire.TypeSealedClient)
}

// renew forgets the senders whose keys are gone.
func (o *Opener) renew() {
	keys := o.ring.keys.Load()
	if keys == o.keys {
		return
	}
	o.keys = keys
	maps.DeleteFunc(o.senders, func(_ [saltSize]byte, s *sender) bool { return find(*keys, s.key) == nil })
}

// open opens a datagram and returns it with its sender, who may be last. It is nil if the datagram is refused.
func (o *Opener) open(b []byte, last *sender) ([]byte, *sender) {
	salt, counter := [saltSize]byte(b[saltAt:]), binary.BigEndian.Uint64(b[counterAt:])
	s := last
	if s == nil || s.salt != salt {
		s = o.senders[salt]
	}
	stranger := s == nil
	switch id := binary.BigEndian.Uint32(b[keyIDAt:]); {
	case stranger:
		key := find(*o.keys, id)
		if key == nil {
			o.foreign.Add(1)
			return nil, last
		}
		s = &sender{salt: salt, key: id, aead: key.aead(o.role, b[saltAt:counterAt])}
	case !s.window.fresh(counter): // before it costs more
		o.replayed.Add(1)
		return nil, last
	}
	h := b[:headerSize]
	if _, err := s.aead.Open(b[headerSize:headerSize], h[nonceAt:], b[headerSize:], h); err != nil {
		o.forged.Add(1)
		return nil, last
	}
	o.clock++
	s.heard = o.clock
	s.window.note(counter)
	if stranger {
		o.remember(s)
	}
	b = b[headerSize-prefix : len(b)-tagSize]
	binary.BigEndian.PutUint16(b, wire.Magic)
	b[2] = wire.Version
	return b, s
}

// remember adds a sender, in the place of another when there are too many.
func (o *Opener) remember(s *sender) {
	if len(o.senders) >= maxSenders {
		oldest := slices.MinFunc(slices.Collect(maps.Values(o.senders)), func(a, b *sender) int {
			if a.heard < b.heard {
				return -1
			}
			return 1
		})
		delete(o.senders, oldest.salt)
	}
	o.senders[s.salt] = s
}

// find returns the key with an id, or nil.
func find(keys []Key, id uint32) *Key {
	if i := slices.IndexFunc(keys, func(k Key) bool { return k.ID == id }); i >= 0 {
		return &keys[i]
	}
	return nil
}
