package seal

import (
	"crypto/hkdf"
	"crypto/sha256"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Ring is the keys that a process uses now: the first seals, all open. A nil Ring is a group without a key. It may be used by many
// goroutines at once.
type Ring struct {
	path string
	keys atomic.Pointer[[]Key] // at least one; what it points to is never changed

	mu   sync.Mutex // guards what follows
	said string     // the last complaint
}

// NewRing returns a ring of some keys, at least one.
func NewRing(keys ...Key) *Ring {
	r := &Ring{}
	r.keys.Store(&keys)
	return r
}

// Open returns the ring of a file of keys.
func Open(path string) (*Ring, error) {
	keys, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := NewRing(keys...)
	r.path = path
	return r, nil
}

// Refresh reads the ring's file again and takes what it has now. A file that cannot be read, or is none of keys, changes nothing; log
// is told so, once.
func (r *Ring) Refresh(log *slog.Logger) {
	if r == nil || r.path == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	keys, err := ReadFile(r.path)
	switch {
	case err != nil:
		if said := err.Error(); said != r.said {
			r.said = said
			log.Error("the group's keys stay as they were", "error", err)
		}
		return
	case !slices.Equal(keys, *r.keys.Load()):
		r.keys.Store(&keys)
		log.Info("the group's keys changed", "seals", keys[0].Name(), "open", strings.Join(r.Names(), ", "))
	}
	r.said = ""
}

// Names are the ids of the keys, the one first that seals; none of a nil ring.
func (r *Ring) Names() []string {
	if r == nil {
		return nil
	}
	var names []string
	for _, k := range *r.keys.Load() {
		names = append(names, k.Name())
	}
	return names
}

// Blind returns bytes that stand for an id among those who have the key, and tell others nothing. A nil ring returns the id.
func (r *Ring) Blind(id [32]byte) [32]byte {
	if r == nil {
		return id
	}
	b, err := hkdf.Key(sha256.New, (*r.keys.Load())[0].Secret[:], id[:], "dnbd 1 data group", len(id))
	if err != nil {
		panic("seal: " + err.Error()) // only for lengths that HKDF cannot have
	}
	return [32]byte(b)
}
