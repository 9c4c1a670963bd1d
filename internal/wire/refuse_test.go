package wire

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestDatagramsThatAreNotOursAreRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes string
		want  error
	}{
		{"nothing", "", ErrForeign},
		{"three bytes", "444e01", ErrForeign},
		{"another magic", "4e44 01 01", ErrForeign},
		{"the next version", "444e 02 01", ErrVersion},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := datagram(t, c.bytes, 0)
			if _, err := TypeOf(b); !errors.Is(err, c.want) {
				t.Errorf("TypeOf: %v, want %v", err, c.want)
			}
			for typ, codec := range codecs {
				if _, err := codec.parse(b); !errors.Is(err, c.want) {
					t.Errorf("type %d: %v, want %v", typ, err, c.want)
				}
			}
		})
	}
}

func TestAParserRefusesEachOtherType(t *testing.T) {
	for _, g := range golden {
		b := datagram(t, g.bytes, max(g.size, MaxControlSize))
		for typ, codec := range codecs {
			if _, err := codec.parse(b); typ != g.typ && !errors.Is(err, ErrValue) {
				t.Errorf("%s parsed as type %d: %v", g.name, typ, err)
			}
		}
	}
}

func TestEachShorterDatagramIsRefused(t *testing.T) {
	for _, g := range golden {
		b := datagram(t, g.bytes, g.size)
		if g.typ == TypeData {
			b = b[:DataHeaderSize] // any length of payload is good to the parser
		}
		for n := range len(b) {
			if _, err := codecs[g.typ].parse(b[:n]); err == nil {
				t.Fatalf("%s: the first %d of %d bytes were taken", g.name, n, len(b))
			}
		}
	}
}

// Later versions of the same major format may append fields: what follows is passed over.
func TestBytesBehindAControlDatagramArePassedOver(t *testing.T) {
	for _, g := range golden {
		if g.typ == TypeData {
			continue
		}
		b := append(datagram(t, g.bytes, g.size), 0xff, 0xff, 0xff)
		v, err := codecs[g.typ].parse(b)
		if err != nil {
			t.Errorf("%s: %v", g.name, err)
			continue
		}
		if again := codecs[g.typ].append(v); string(again) != string(b[:len(b)-3]) {
			t.Errorf("%s: encoded\n%x, want\n%x", g.name, again, b[:len(b)-3])
		}
	}
}

func TestValuesOutOfRangeAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		row  string // of golden
		at   int
		to   string
		want error
	}{
		{"hello that asks in a fourth way", "hello by id", 20, "03", ErrValue},
		{"hello with a name of 129 bytes", "hello by name and revision", 21, "81", ErrValue},
		{"hello with a name longer than it", "hello by name and revision", 21, "0a", ErrLength},
		{"welcome that is part 2 of 2, from 0", "welcome with two offers", 6, "02", ErrValue},
		{"welcome with more offers than bytes", "welcome with two offers", 30, "03", ErrLength},
		{"welcome with a name of 129 bytes", "welcome with two offers", 32 + 4, "81", ErrValue},
		{"welcome with a name beyond its end", "welcome with two offers", 32 + 83 + 4, "80", ErrLength},
		{"welcome with a signature beyond its end", "welcome with two offers", 32 + 83 + 44, "0400", ErrLength},
		{"welcome with a signature of 1025 bytes", "welcome with two offers", 32 + 83 + 44, "0401", ErrValue},
		{"announce with more images than bytes", "announce", 7, "03", ErrLength},
		{"want with more ranges than bytes", "want", 31, "03", ErrLength},
		{"want of no blocks", "want", 48 + 4, "0000", ErrValue},
		{"data of 0 symbols with a payload", "data", 26, "0000", ErrLength},
		{"data of 46 symbols without a payload", "tail mark", 26, "002e", ErrLength},
		{"command of no verb", "command", 20, "00", ErrValue},
		{"command of a fifth verb", "command", 20, "05", ErrValue},
		{"command with a name longer than it", "command", 21, "04", ErrLength},
		{"command with a name of 129 bytes", "command", 21, "81", ErrValue},
		{"answer with a fifth outcome", "answer", 20, "04", ErrValue},
		{"answer that is part 2 of 2, from 0", "answer", 22, "0002", ErrValue},
		{"answer with more text than bytes", "answer", 26, "000e", ErrLength},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := slices.IndexFunc(golden, func(r row) bool { return r.name == c.row })
			g := golden[i]
			b := datagram(t, g.bytes, g.size)
			copy(b[c.at:], datagram(t, c.to, 0))
			if _, err := codecs[g.typ].parse(b); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func TestANameOfAnOfferHasAtMost128Bytes(t *testing.T) {
	w := Welcome{Parts: 1, Offers: []Offer{{Name: strings.Repeat("n", MaxName+1)}}}
	if _, err := ParseWelcome(w.Append(nil)); !errors.Is(err, ErrValue) {
		t.Errorf("%d bytes: %v", MaxName+1, err)
	}
	w.Offers[0].Name = w.Offers[0].Name[1:]
	if _, err := ParseWelcome(w.Append(nil)); err != nil {
		t.Errorf("%d bytes: %v", MaxName, err)
	}
}

func TestOffersAreSplitSoThatEachWelcomeFits(t *testing.T) {
	for n := range 40 {
		offers := make([]Offer, n)
		for i := range offers {
			offers[i] = Offer{Handle: uint16(i), Name: strings.Repeat("n", 1+(i*37)%MaxName), Signature: make([]byte, i*331%(MaxSignature+1))}
		}
		next := 0
		for _, run := range SplitOffers(offers) {
			w := Welcome{Offers: run}
			if size := len(w.Append(nil)); size > MaxControlSize {
				t.Errorf("%d offers: a datagram of %d bytes", n, size)
			}
			for _, o := range run {
				if int(o.Handle) != next {
					t.Errorf("%d offers: %d where %d was to come", n, o.Handle, next)
				}
				next++
			}
		}
		if next != n {
			t.Errorf("%d of %d offers came out", next, n)
		}
	}
}

func TestTheLargestControlDatagramsFit(t *testing.T) {
	w := Want{Ranges: slices.Repeat([]Range{{Count: 1}}, MaxWantRanges)}
	a := Announce{Images: make([]AnnouncedImage, MaxAnnounced)}
	o := Welcome{Offers: []Offer{{Name: strings.Repeat("n", MaxName), Signature: make([]byte, MaxSignature)}}}
	answer := Answer{Parts: 1, Text: make([]byte, MaxAnswerText)}
	for _, b := range [][]byte{w.Append(nil), a.Append(nil), o.Append(nil), answer.Append(nil)} {
		if len(b) > MaxControlSize {
			t.Errorf("type %d: %d bytes, %d at most", b[3], len(b), MaxControlSize)
		}
		if _, err := codecs[Type(b[3])].parse(b); err != nil {
			t.Errorf("type %d: %v", b[3], err)
		}
	}
}

// An address that has not proved itself is answered with no more bytes than it sent.
func TestNoAnswerToAnUnprovenAddressIsLargerThanItsQuestion(t *testing.T) {
	hello, want := Hello{}, Want{}
	welcome, deny := Welcome{}, Deny{}
	if q, a := len(hello.Append(nil)), len(welcome.Append(nil)); a > q {
		t.Errorf("a HELLO of %d bytes is answered with %d", q, a)
	}
	if q, a := len(want.Append(nil)), len(deny.Append(nil)); a > q {
		t.Errorf("a WANT of %d bytes is answered with %d", q, a)
	}
}

func TestParsingAWantReusesItsRanges(t *testing.T) {
	first := Want{Ranges: []Range{{Block: 1, Count: 1}, {Block: 2, Count: 1}}}
	second := Want{Ranges: []Range{{Block: 3, Count: 4}}}
	var w Want
	for _, want := range []Want{first, second} {
		if err := ParseWant(want.Append(nil), &w); err != nil || !slices.Equal(w.Ranges, want.Ranges) {
			t.Errorf("%+v, %v; want %+v", w.Ranges, err, want.Ranges)
		}
	}
	b := second.Append(nil)
	if n := testing.AllocsPerRun(10, func() { _ = ParseWant(b, &w) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSequenceNumbersHave48Bits(t *testing.T) {
	for _, seq := range []uint64{0, 1, 1 << 32, MaxSeq} {
		d := Data{Seq: seq}
		b := d.AppendHeader(nil)
		if got := binary.BigEndian.Uint64(append([]byte{0, 0}, b[12:18]...)); got != seq {
			t.Errorf("%#x on the wire is %#x", seq, got)
		}
		var again Data
		if _, err := ParseData(b, &again); err != nil || again.Seq != seq {
			t.Errorf("%#x came back as %#x, %v", seq, again.Seq, err)
		}
	}
}
