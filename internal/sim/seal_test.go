package sim

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/seal"
)

// TestInAGroupWithAKeyAHostileHostCanOnlyRepeatItself lets it send everything that the groups hear three times more: at once, later, and
// with a byte changed, in the sender's name. The network itself loses, reorders and repeats datagrams.
func TestInAGroupWithAKeyAHostileHostCanOnlyRepeatItself(t *testing.T) {
	seeds(t, 3, func(t *testing.T, seed uint64) {
		r := newRoom(t, seed, 4<<20, 64<<10)
		r.Keys = seal.NewRing(seal.NewKey())
		r.serve()
		r.serve()
		group := r.image.export().Offer.Group
		var m *Node
		m = r.NewNode(Link{}, func(from netip.AddrPort, b []byte) {
			to := Group
			if len(b) > 1000 {
				to = group
			}
			changed := bytes.Clone(b)
			changed[4+r.Rand.IntN(len(b)-4)] ^= 1 << r.Rand.IntN(8)
			m.SendAs(from, to, b)
			m.SendAs(from, to, changed)
			r.After(time.Duration(r.Rand.Int64N(int64(time.Second))), func() { m.SendAs(from, to, b) })
		})
		m.Join(Group)
		m.Join(group)
		d := r.read(r.join(Link{Jitter: time.Millisecond}), 8, 0)
		r.copy(3, Link{Loss: 0.01, Duplicate: 0.02, Jitter: 200 * time.Microsecond})
		r.until(5*time.Second, "the reader has read all", d.done)
		r.finish(5 * time.Second)
		for _, c := range r.clients {
			st := c.seals.opener.Stats()
			if c.Wrong > 0 || st.Replayed == 0 || st.Forged == 0 || st.Plain+st.Foreign > st.Forged {
				t.Errorf("%v: refused %+v", c, st)
			}
		}
		if r.sent() > 2 {
			t.Errorf("sent %.3f images", r.sent())
		}
		t.Logf("longest read %v, all in %v, %.3f images sent", d.longest, r.elapsed(), r.sent())
	})
}
