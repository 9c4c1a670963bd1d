package seal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dnbd/dnbd/internal/wire"
)

// key returns a key whose secret is one byte over and over.
func key(b byte) Key { return keyOf([32]byte(bytes.Repeat([]byte{b}, 32))) }

// one opens one datagram; nil is that it was refused.
func one(o *Opener, b []byte) []byte {
	out := o.Open([][]byte{bytes.Clone(b)})
	if len(out) == 0 {
		return nil
	}
	return out[0]
}

var ack = (&wire.Ack{Server: 3, Handle: 5, Epoch: 4, Time: 1_000_000, Seq: 70016}).Append(nil)

func TestWhatIsSealedIsOpenedAsItWas(t *testing.T) {
	r := NewRing(key(1))
	s, o := r.NewSealer(Server), r.NewOpener(Server)
	d := wire.Data{Server: 3, Handle: 5, Epoch: 4, Seq: 7, Block: 9, K: 46}
	symbol := bytes.Repeat([]byte("symbol"), 200)
	for _, c := range []struct {
		name       string
		head, body []byte
	}{
		{"control", ack, nil},
		{"data", d.AppendHeader(nil), symbol},
		{"tail mark", (&wire.Data{Seq: 1}).AppendHeader(nil), nil},
	} {
		sealed := s.Seal(nil, c.head, c.body)
		want := append(bytes.Clone(c.head), c.body...)
		if len(sealed) != len(want)+Overhead {
			t.Errorf("%s: %d bytes became %d, want %d more", c.name, len(want), len(sealed), Overhead)
		}
		if bytes.Contains(sealed, c.head[4:]) || len(c.body) > 0 && bytes.Contains(sealed, []byte("symbolsymbol")) {
			t.Errorf("%s: can be read without the key", c.name)
		}
		if got := one(o, sealed); !bytes.Equal(got, want) {
			t.Errorf("%s: opened as %x, want %x", c.name, got, want)
		}
	}
	if st := o.Stats(); st != (Stats{}) {
		t.Errorf("refused %+v", st)
	}
}

// fixed returns a sealer whose salt is 000102…0f, and whose next number is 7.
func fixed(r *Ring, role Role) *Sealer {
	s := r.NewSealer(role)
	c := s.current()
	for i := range saltSize {
		c.header[saltAt+i] = byte(i)
	}
	c.aead = c.key.aead(role, c.header[saltAt:])
	c.counter.Store(6)
	return s
}

// The key is 0101…01, the salt 000102…0f and the counter 7.
func TestGoldenBytes(t *testing.T) {
	k := key(1)
	if k.Name() != goldenID {
		t.Errorf("the id is %s, want %s", k.Name(), goldenID)
	}
	r := NewRing(k)
	for role, want := range map[Role]string{Server: goldenServer, Client: goldenClient} {
		s := fixed(r, role)
		b, err := hex.DecodeString(strings.Join(strings.Fields(want), ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Seal(nil, ack, nil); !bytes.Equal(got, b) {
			t.Errorf("role %d:\n%s\nwant\n%s", role, hex.Dump(got), hex.Dump(b))
		}
		if got := one(r.NewOpener(role), b); !bytes.Equal(got, ack) {
			t.Errorf("role %d: opened as %x", role, got)
		}
	}
	if got := r.Blind([32]byte{1}); hex.EncodeToString(got[:4]) != goldenBlind {
		t.Errorf("blind id %x, want %s…", got, goldenBlind)
	}
}

func TestTheDocumentedExampleIsWhatIsSent(t *testing.T) {
	const doc = "../../docs/protocol.md"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for at, line := range strings.Split(strings.TrimSpace(goldenServer), "\n") {
		fmt.Fprintf(&want, "%04x  %s\n", 16*at, strings.TrimSpace(line))
	}
	if !strings.Contains(string(text), "sealed\n"+want.String()+"```\n") {
		t.Errorf("%s does not have\n%s", doc, want.String())
	}
}

func TestWhatIsNotOursIsRefusedAndCounted(t *testing.T) {
	r := NewRing(key(1))
	s := r.NewSealer(Server)
	changed := func(i int, by byte) []byte {
		b := s.Seal(nil, ack, nil)
		b[(len(b)+i)%len(b)] ^= by
		return b
	}
	for _, c := range []struct {
		name string
		b    []byte
		want Stats
	}{
		{"another key", NewRing(key(2)).NewSealer(Server).Seal(nil, ack, nil), Stats{Foreign: 1}},
		{"no key", ack, Stats{Plain: 1}},
		{"the other role's", r.NewSealer(Client).Seal(nil, ack, nil), Stats{}},
		{"the other role's, said to be ours", func() []byte {
			b := r.NewSealer(Client).Seal(nil, ack, nil)
			b[3] = byte(Server)
			return b
		}(), Stats{Forged: 1}},
		{"another program's", []byte("hello"), Stats{}},
		{"nothing", nil, Stats{}},
		{"cut off", s.Seal(nil, ack, nil)[:headerSize+tagSize], Stats{Forged: 1}},
		{"a bit of the bytes changed", changed(headerSize+3, 1), Stats{Forged: 1}},
		{"a bit of the tag changed", changed(-1, 1), Stats{Forged: 1}},
		{"a bit of the salt changed", changed(saltAt, 1), Stats{Forged: 1}},
		{"a bit of the counter changed", changed(counterAt, 1), Stats{Forged: 1}},
		{"counter 0", func() []byte {
			b := s.Seal(nil, ack, nil)
			clear(b[counterAt:headerSize])
			return b
		}(), Stats{Forged: 1}},
	} {
		o := r.NewOpener(Server)
		if got := one(o, c.b); got != nil {
			t.Errorf("%s: opened as %x", c.name, got)
		}
		if got := o.Stats(); got != c.want {
			t.Errorf("%s: counted %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestWithoutAKeyWhatIsSealedIsLeftOut(t *testing.T) {
	var none *Ring
	o := none.NewOpener(Server)
	if got := one(o, NewRing(key(1)).NewSealer(Client).Seal(nil, ack, nil)); got != nil {
		t.Errorf("opened as %x", got)
	}
	if got := one(o, none.NewSealer(Server).Control(ack)); !bytes.Equal(got, ack) {
		t.Errorf("what is not sealed came as %x", got)
	}
	if got := o.Stats(); got != (Stats{Foreign: 1}) {
		t.Errorf("counted %+v", got)
	}
	if id := none.Blind([32]byte{7}); id != [32]byte{7} {
		t.Errorf("an id became %x", id)
	}
}

func TestNothingIsOpenedTwice(t *testing.T) {
	r := NewRing(key(1))
	s, o := r.NewSealer(Client), r.NewOpener(Client)
	var sent [][]byte
	for range 3 * windowSize {
		sent = append(sent, s.Seal(nil, ack, nil))
	}
	last := len(sent) - 1
	for _, i := range []int{5, 3, 4, last - 1, last, last - windowSize/2} {
		if one(o, sent[i]) == nil {
			t.Errorf("datagram %d is refused when it comes first", i)
		}
	}
	for _, i := range []int{3, 4, 5, last, last - 1, last - windowSize/2} {
		if one(o, sent[i]) != nil {
			t.Errorf("datagram %d is let in again", i)
		}
	}
	if one(o, sent[last-windowSize-1]) != nil {
		t.Error("one that comes so late that nobody knows whether it was there is let in")
	}
	if one(o, sent[last-windowSize+1]) == nil {
		t.Error("one that comes late is refused")
	}
	if got := o.Stats().Replayed; got != 7 {
		t.Errorf("%d were counted, want 7", got)
	}
}

func TestTheWindowKnowsEveryNumberThatItCovers(t *testing.T) {
	var w window
	seen := map[uint64]bool{}
	x, top := uint64(1), uint64(0)
	for range 50_000 {
		x = x*6364136223846793005 + 1442695040888963407
		n := max(top, windowSize) - windowSize + x>>40%(windowSize+200)
		if x>>60 == 0 {
			n += windowSize * (x >> 50 % 8) // a gap
		}
		want := n > 0 && !seen[n] && n+windowSize > top
		if got := w.fresh(n); got != want {
			t.Fatalf("fresh(%d) = %v after %d, want %v", n, got, top, want)
		}
		if want {
			w.note(n)
			seen[n], top = true, max(top, n)
		}
	}
}

func TestTheFirstKeySealsAndAllOpen(t *testing.T) {
	first, second := key(1), key(2)
	a, b := NewRing(first), NewRing(first)
	s, o := a.NewSealer(Server), b.NewOpener(Server)
	turn := func(r *Ring, keys ...Key) { r.keys.Store(&keys) }
	try := func(when string, want bool) {
		t.Helper()
		if got := one(o, s.Seal(nil, ack, nil)); (got != nil) != want {
			t.Errorf("%s: opened as %x, want that it is opened: %v", when, got, want)
		}
	}
	early := s.Seal(nil, ack, nil)
	try("with one key", true)
	turn(b, first, second)
	try("the receiver has the second key too", true)
	turn(a, first, second)
	try("both have both", true)
	turn(a, second, first)
	try("the sender has the second key first", true)
	turn(b, second, first)
	try("both do", true)
	turn(a, second)
	try("the sender has the second key alone", true)
	turn(b, second)
	try("both do", true)
	if one(o, early) != nil {
		t.Error("a key that is gone still opens")
	}
	turn(a, first)
	try("the sender has the old key alone", false)
	if st := o.Stats(); st.Foreign != 2 || st.Forged+st.Plain+st.Replayed != 0 {
		t.Errorf("counted %+v", st)
	}
}

func TestTwoStartsNeverSealUnderOneKeyAndNumber(t *testing.T) {
	r := NewRing(key(1))
	seen := map[string]bool{}
	for range 100 {
		s := r.NewSealer(Server)
		for range 2 {
			nonce := string(s.Seal(nil, ack, nil)[saltAt:headerSize])
			if seen[nonce] {
				t.Fatalf("salt and counter %x for the second time", nonce)
			}
			seen[nonce] = true
		}
	}
}

func TestManySendersAreRememberedAndNotMore(t *testing.T) {
	r := NewRing(key(1))
	o := r.NewOpener(Client)
	first := r.NewSealer(Client).Seal(nil, ack, nil)
	recent := r.NewSealer(Client)
	one(o, first)
	for range maxSenders + 10 {
		one(o, r.NewSealer(Client).Seal(nil, ack, nil))
		one(o, recent.Seal(nil, ack, nil))
	}
	if len(o.senders) != maxSenders {
		t.Errorf("%d senders are remembered, want %d", len(o.senders), maxSenders)
	}
	if again := recent.Seal(nil, ack, nil); one(o, again) == nil || one(o, again) != nil {
		t.Error("one who sent just now was forgotten")
	}
}

func TestLengthsDoNotTellHowManyImagesThereAre(t *testing.T) {
	s := NewRing(key(1)).NewSealer(Server)
	offer := wire.Offer{Name: "debian"}
	lengths := map[int]bool{}
	for n := range 95 {
		lengths[len(s.Control((&wire.Announce{Images: make([]wire.AnnouncedImage, n)}).Append(nil)))] = true
	}
	for n := range 10 {
		lengths[len(s.Control((&wire.Welcome{Parts: 1, Offers: slices.Repeat([]wire.Offer{offer}, n)}).Append(nil)))] = true
	}
	if len(lengths) != 1 {
		t.Errorf("lengths are %v, want one", lengths)
	}
	const least = 1280 - 40 - 8 // MTU of IPv6, less headers
	for n := range lengths {
		if n > least {
			t.Errorf("they have %d bytes, at most %d pass everywhere", n, least)
		}
	}
	if n := len(s.Control((&wire.Announce{Images: make([]wire.AnnouncedImage, wire.MaxAnnounced)}).Append(nil))); n != wire.MaxControlSize+Overhead {
		t.Errorf("the longest ANNOUNCE has %d bytes", n)
	}
	// Nobody is made to send others more than he sends.
	hello := (&wire.Hello{Want: wire.HelloName, Name: "debian"}).Append(nil)
	if q, a := len(s.Control(hello)), len(s.Control((&wire.Welcome{}).Append(nil))); a > q {
		t.Errorf("an answer to an unproven address has %d bytes, the question %d", a, q)
	}
}

func TestSealersAndOpenersAreSafeForConcurrentUse(t *testing.T) {
	r := NewRing(key(1))
	s, o := r.NewSealer(Client), r.NewOpener(Client)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				if one(o, s.Seal(nil, ack, nil)) == nil {
					t.Error("a datagram is refused")
				}
			}
		})
	}
	wg.Go(func() {
		for i := range byte(20) {
			keys := []Key{key(1), key(2 + i)}
			r.keys.Store(&keys)
		}
	})
	wg.Wait()
}

func TestATrainIsSealedAndOpenedWithoutAllocating(t *testing.T) {
	r := NewRing(key(1))
	s, o := r.NewSealer(Server), r.NewOpener(Server)
	head, body := (&wire.Data{K: 1}).AppendHeader(nil), make([]byte, 1390)
	buf := make([]byte, 0, 64<<10)
	var train [][]byte
	allocs := testing.AllocsPerRun(100, func() {
		buf, train = buf[:0], train[:0]
		for range 40 {
			from := len(buf)
			buf = s.Seal(buf, head, body)
			train = append(train, buf[from:])
		}
		if out := o.Open(train); len(out) != 40 {
			t.Errorf("%d of 40 were opened", len(out))
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations a train, want none", allocs)
	}
}

// FuzzOpen: whatever arrives, it is refused or what was sealed.
func FuzzOpen(f *testing.F) {
	r := NewRing(key(1))
	sealed := fixed(r, Server).Seal(nil, ack, nil) // the same in all processes
	f.Add(sealed)
	f.Add(sealed[:headerSize])
	f.Add(ack)
	f.Add([]byte{0x44, 0x4e, 1, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		o := r.NewOpener(Server)
		var st Stats
		if got := one(o, b); got != nil {
			if !bytes.Equal(b, sealed) {
				t.Errorf("opened %x as %x", b, got)
			}
		} else if st = o.Stats(); st.Foreign+st.Forged+st.Plain+st.Replayed > 1 {
			t.Errorf("counted %+v for one datagram", st)
		}
		var none *Ring
		if got := one(none.NewOpener(Client), b); got != nil && !bytes.Equal(got, b) {
			t.Errorf("%x became %x", b, got)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	s := NewRing(key(1)).NewSealer(Server)
	head, body, buf := (&wire.Data{K: 1}).AppendHeader(nil), make([]byte, 1394), make([]byte, 0, 2048)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		buf = s.Seal(buf[:0], head, body)
	}
}

func BenchmarkOpen(b *testing.B) {
	r := NewRing(key(1))
	head, body := (&wire.Data{K: 1}).AppendHeader(nil), make([]byte, 1394)
	s := r.NewSealer(Server)
	var sealed, work, train [][]byte
	for range 40 {
		d := s.Seal(nil, head, body)
		sealed, work = append(sealed, d), append(work, bytes.Clone(d))
	}
	o := r.NewOpener(Server)
	b.SetBytes(int64(40 * len(body)))
	b.ReportAllocs()
	for b.Loop() {
		train = append(train[:0], work...)
		for i := range sealed {
			copy(work[i], sealed[i])
		}
		for _, s := range o.senders {
			s.window = window{}
		}
		if n := len(o.Open(train)); n != 40 {
			b.Fatal(n)
		}
	}
}

// BenchmarkForged is what it costs to refuse a datagram of a stranger who knows the key's id, which anybody can hear.
func BenchmarkForged(b *testing.B) {
	r := NewRing(key(1))
	d := r.NewSealer(Server).Seal(nil, ack, make([]byte, 1300))
	o := r.NewOpener(Server)
	n := uint64(0)
	for b.Loop() {
		n++
		binary.BigEndian.PutUint64(d[saltAt:], n)
		o.Open([][]byte{d})
	}
}
