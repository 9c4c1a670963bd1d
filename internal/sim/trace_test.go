package sim

import (
	"strings"
	"testing"

	"github.com/dnbd/dnbd/image"
)

// FuzzParseTrace: a trace that is taken can be replayed.
func FuzzParseTrace(f *testing.F) {
	f.Add("# a boot\n0 0 0 8192\n1 50 4096 8192\n2 7 4096 1\n")
	f.Add("0 0 1048575 2\n")
	g, err := image.Descriptor{Name: "x", Size: 1 << 20, BlockSize: 4 << 10}.Geometry()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		trace, err := ParseTrace(strings.NewReader(text), g)
		if err != nil {
			return
		}
		seen := map[uint32]bool{}
		for i, r := range trace.Reads {
			if r.After >= i || i-r.After > readsAtOnce && r.After >= 0 || r.Think < 0 {
				t.Errorf("read %d: %+v", i, r)
			}
			for _, b := range r.Blocks {
				if seen[b] || b >= g.Total() {
					t.Errorf("read %d needs block %d of %d, again or not there", i, b, g.Total())
				}
				seen[b] = true
			}
		}
	})
}
