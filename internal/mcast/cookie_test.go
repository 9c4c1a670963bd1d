package mcast

import (
	"testing"

	"github.com/dnbd/dnbd/internal/wire"
)

func TestWithoutTheCookieAHelloIsAnsweredWithTheCookieAlone(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	s := newTestSender(1, i)
	hello := wire.Hello{Nonce: 5, Want: wire.HelloAll}
	for _, cookie := range []uint64{0, 1, s.cookie(addr(8))} {
		hello.Cookie = cookie
		question := hello.Append(nil)
		s.Input(epoch, addr(9), question)
		answers := s.Packets()
		if len(answers) != 1 || answers[0].To != addr(9) {
			t.Fatalf("%d answers", len(answers))
		}
		w, err := wire.ParseWelcome(answers[0].Data)
		if err != nil || len(w.Offers) != 0 || w.Parts != 0 || w.Nonce != 5 {
			t.Errorf("cookie %d: %+v, %v", cookie, w, err)
		}
		if len(answers[0].Data) > len(question) {
			t.Errorf("%d bytes are answered with %d", len(question), len(answers[0].Data))
		}
		if w.Cookie != s.cookie(addr(9)) {
			t.Errorf("the cookie is not the address's")
		}
	}
	hello.Cookie = s.cookie(addr(9))
	s.Input(epoch, addr(9), hello.Append(nil))
	w, err := wire.ParseWelcome(s.Packets()[0].Data)
	if err != nil || len(w.Offers) != 1 || w.Parts != 1 || w.Offers[0].Name != "test" {
		t.Errorf("with the cookie: %+v, %v", w, err)
	}
}

func TestWhoeverProvedItsAddressIsAnswered(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	for _, c := range []struct {
		name   string
		ask    wire.Hello
		offers int
	}{
		{"anything", wire.Hello{}, 1},
		{"its name", wire.Hello{Want: wire.HelloName, Name: "test"}, 1},
		{"its name and revision", wire.Hello{Want: wire.HelloName, Name: "test", Revision: 1}, 1},
		{"another revision", wire.Hello{Want: wire.HelloName, Name: "test", Revision: 2}, 0},
		{"another name", wire.Hello{Want: wire.HelloName, Name: "tes"}, 0},
		{"its id", wire.Hello{Want: wire.HelloID, ID: i.desc.ID()}, 1},
		{"another id", wire.Hello{Want: wire.HelloID}, 0},
	} {
		s := newTestSender(1, i)
		c.ask.Cookie = s.cookie(addr(9))
		s.Input(epoch, addr(9), c.ask.Append(nil))
		answers := s.Packets()
		if len(answers) != 1 {
			t.Fatalf("%s: %d answers", c.name, len(answers))
		}
		if w, err := wire.ParseWelcome(answers[0].Data); err != nil || w.Parts != 1 || len(w.Offers) != c.offers {
			t.Errorf("%s: %d offers in %d parts, %v; want %d", c.name, len(w.Offers), w.Parts, err, c.offers)
		}
	}
	s := newTestSender(1, i)
	s.SetState(1, wire.ImageWithdrawn)
	hello := wire.Hello{Want: wire.HelloName, Name: "test", Cookie: s.cookie(addr(9))}
	s.Input(epoch, addr(9), hello.Append(nil))
	if w, err := wire.ParseWelcome(s.Packets()[0].Data); err != nil || w.Parts != 1 || len(w.Offers) > 0 {
		t.Error("an image that was withdrawn is offered")
	}
}

func TestManyOffersComeInParts(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	s := newTestSender(1, i)
	for handle := range uint16(99) {
		s.Add(i.export(handle + 2))
	}
	hello := wire.Hello{Cookie: s.cookie(addr(9))}
	s.Input(epoch, addr(9), hello.Append(nil))
	seen := map[uint16]bool{}
	answers := s.Packets()
	for n, p := range answers {
		w, err := wire.ParseWelcome(p.Data)
		if err != nil || int(w.Part) != n || int(w.Parts) != len(answers) || len(p.Data) > wire.MaxControlSize {
			t.Errorf("part %d: %d of %d, %d bytes, %v", n, w.Part, w.Parts, len(p.Data), err)
		}
		for _, o := range w.Offers {
			seen[o.Handle] = true
		}
	}
	if len(seen) != 100 {
		t.Errorf("%d of 100 images in %d parts", len(seen), len(answers))
	}
}

func TestWhatIsRefusedAndWhy(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	for _, c := range []struct {
		name   string
		change func(s *Sender, w *wire.Want)
		reason wire.Reason // 0 for no answer at all
	}{
		{"no cookie", func(_ *Sender, w *wire.Want) { w.Cookie = 0 }, wire.DenyCookie},
		{"another address's cookie", func(s *Sender, w *wire.Want) { w.Cookie = s.cookie(addr(8)) }, wire.DenyCookie},
		{"another epoch", func(_ *Sender, w *wire.Want) { w.Epoch++ }, wire.DenyCookie},
		{"no such image", func(_ *Sender, w *wire.Want) { w.Handle = 2 }, wire.DenyImage},
		{"withdrawn", func(s *Sender, _ *wire.Want) { s.SetState(1, wire.ImageWithdrawn) }, wire.DenyWithdrawn},
		{"no such block", func(_ *Sender, w *wire.Want) { w.Ranges[0].Block = 11 }, wire.DenyBlock},
		{"a run beyond the end", func(_ *Sender, w *wire.Want) { w.Ranges[0].Count = 9 }, wire.DenyBlock},
		{"a run that wraps around", func(_ *Sender, w *wire.Want) { w.Ranges[0].Block = 1<<32 - 1; w.Ranges[0].Count = 2 }, wire.DenyBlock},
		{"another server's id", func(_ *Sender, w *wire.Want) { w.Server = 2 }, 0},
	} {
		s := newTestSender(1, i)
		s.Packets()
		w := s.ask(addr(9), 0, whole(3))
		c.change(s, &w)
		question := w.Append(nil)
		s.Input(epoch, addr(9), question)
		answers := s.Packets()
		if len(answers) == 0 {
			if c.reason != 0 {
				t.Errorf("%s: no answer", c.name)
			}
			continue
		}
		d, err := wire.ParseDeny(answers[0].Data)
		if err != nil || d.Reason != c.reason || d.Time != w.Time || d.Cookie != s.cookie(addr(9)) {
			t.Errorf("%s: %+v, %v; want %v", c.name, d, err, c.reason)
		}
		if len(answers[0].Data) > len(question) {
			t.Errorf("%s: %d bytes are answered with %d", c.name, len(question), len(answers[0].Data))
		}
		if len(i.drain(s, epoch)) > 0 || len(s.peers) > 0 && c.reason == wire.DenyCookie {
			t.Errorf("%s: something was done all the same", c.name)
		}
	}
}

// The cookie of a DENY is the way back after a server was started anew.
func TestTheCookieOfADenyWorks(t *testing.T) {
	i := newTestImage(10<<12, 4<<10)
	s := newTestSender(1, i)
	w := s.ask(addr(9), 0, whole(3))
	w.Cookie, w.Epoch = 1, 2
	s.Input(epoch, addr(9), w.Append(nil))
	d, err := wire.ParseDeny(s.Packets()[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	w.Cookie, w.Epoch = d.Cookie, d.Epoch
	if ack := answer(t, s, epoch, addr(9), w); ack.Queued != 1 {
		t.Errorf("%+v", ack)
	}
}

func TestCookiesAreOfOneAddressAndOneLife(t *testing.T) {
	a := newCookieJar([32]byte{1}, 1)
	cookies := map[uint64]string{}
	for name, cookie := range map[string]uint64{
		"an address":      a.cookie(addr(1)),
		"another address": a.cookie(addr(2)),
		"another epoch":   newCookieJar([32]byte{1}, 2).cookie(addr(1)),
		"another secret":  newCookieJar([32]byte{2}, 1).cookie(addr(1)),
	} {
		if other, ok := cookies[cookie]; ok || cookie == 0 {
			t.Errorf("%s has the cookie of %s: %d", name, other, cookie)
		}
		cookies[cookie] = name
	}
	if first := a.cookie(addr(1)); a.cookie(addr(1)) != first {
		t.Error("an address's cookie changes")
	}
}
