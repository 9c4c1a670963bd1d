package wire

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestTheDocumentedExampleIsWhatIsSent compares the dumps of docs/protocol.md with the golden rows.
func TestTheDocumentedExampleIsWhatIsSent(t *testing.T) {
	const doc = "../../docs/protocol.md"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for _, name := range []string{"want", "ack"} {
		g := golden[slices.IndexFunc(golden, func(r row) bool { return r.name == name })]
		fmt.Fprintln(&want, strings.ToUpper(name))
		b := codecs[g.typ].append(g.value)
		for at := 0; at < len(b); at += 16 {
			line := b[at:min(at+16, len(b))]
			fmt.Fprintf(&want, "%04x  % x", at, line[:8])
			if len(line) > 8 {
				fmt.Fprintf(&want, "  % x", line[8:])
			}
			fmt.Fprintln(&want)
		}
	}
	if !strings.Contains(string(text), "```\n"+want.String()+"```\n") {
		t.Errorf("%s does not have\n%s", doc, want.String())
	}
}
