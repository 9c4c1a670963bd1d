package cache

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
)

// TestTheDocumentedFileIsTheOneWritten makes the example of docs/cache-format.md and compares it with the document's
// dump, line by line.
func TestTheDocumentedFileIsTheOneWritten(t *testing.T) {
	const doc = "../../docs/cache-format.md"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```dump\n")
	want, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatalf("%s has no dump", doc)
	}

	path := filepath.Join(t.TempDir(), "cache")
	file := make([]byte, sizeFor(MinSlots))
	h := header{slotSize: MinSlotSize, slots: MinSlots, fileSize: sizeFor(MinSlots)}
	for i := range h.id {
		h.id[i] = byte(i)
	}
	h.encode(file)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	c := mustOpen(t, path, nil)
	first, second := []byte("read here"), []byte("overheard")
	c.Put(blake3.Sum256(first), first, false)
	c.Put(blake3.Sum256(second), second, true)
	closeCache(t, c)

	if file, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if got := dump(file); got != want {
		t.Errorf("the file is\n%s\n%s says\n%s", got, doc, want)
	}
}

// dump is b in hexadecimal, 16 bytes a line, without the lines of zeros.
func dump(b []byte) string {
	var s strings.Builder
	for at := 0; at < len(b); at += 16 {
		if line := b[at : at+16]; !allZero(line) {
			fmt.Fprintf(&s, "%04x  % x  % x\n", at, line[:8], line[8:])
		}
	}
	return s.String()
}
