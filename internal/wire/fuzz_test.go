package wire

import (
	"reflect"
	"testing"
)

// fuzz checks of any bytes that they are refused, or mean the same after they were encoded and parsed again; and that what
// was encoded is not longer than what came.
func fuzz(f *testing.F, typ Type) {
	for _, g := range golden {
		if g.typ == typ {
			f.Add(datagram(f, g.bytes, g.size))
		}
	}
	c := codecs[typ]
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := c.parse(b)
		if err != nil {
			return
		}
		again := c.append(v)
		if len(again) > len(b) {
			t.Fatalf("%d bytes became %d", len(b), len(again))
		}
		w, err := c.parse(again)
		if err != nil {
			t.Fatalf("%+v encodes to what is refused: %v", v, err)
		}
		if !reflect.DeepEqual(v, w) {
			t.Fatalf("%+v became %+v", v, w)
		}
	})
}

func FuzzHello(f *testing.F)    { fuzz(f, TypeHello) }
func FuzzWelcome(f *testing.F)  { fuzz(f, TypeWelcome) }
func FuzzAnnounce(f *testing.F) { fuzz(f, TypeAnnounce) }
func FuzzWant(f *testing.F)     { fuzz(f, TypeWant) }
func FuzzData(f *testing.F)     { fuzz(f, TypeData) }
func FuzzAck(f *testing.F)      { fuzz(f, TypeAck) }
func FuzzDeny(f *testing.F)     { fuzz(f, TypeDeny) }
func FuzzCommand(f *testing.F)  { fuzz(f, TypeCommand) }
func FuzzAnswer(f *testing.F)   { fuzz(f, TypeAnswer) }
