package overlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/zeebo/xxh3"

	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/image"
)

// TestTheDocumentedFileIsTheOneWritten makes the example of docs/overlay-format.md and compares it with the document's dump.
func TestTheDocumentedFileIsTheOneWritten(t *testing.T) {
	const doc = "../../../docs/overlay-format.md"
	text, err := os.ReadFile(doc)
	must(t, err)
	_, rest, _ := strings.Cut(string(text), "```dump\n")
	want, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatalf("%s has no dump", doc)
	}
	const size = 10 * BlockSize
	scratch := blocktest.NewDisk(Size(size))
	synctest.Test(t, func(t *testing.T) { // it is the first of January 2000 here
		is := Base{Name: "debian-12", Revision: 3, ID: image.ID(bytes.Repeat([]byte{0xdb}, 32)), Size: size}
		d, err := open(t.Context(), blocktest.NewMemory(make([]byte, size)), scratch, is, thisStart)
		must(t, err)
		for i := range d.flusher.header.file {
			d.flusher.header.file[i] = byte(i)
		}
		block := make([]byte, BlockSize)
		copy(block, "written here")
		must(t, d.WriteAt(t.Context(), block, BlockSize, false), d.Trim(t.Context(), 3*BlockSize, 2*BlockSize, true), d.Close())
	})
	scratch.Crash(nil)
	file := make([]byte, Size(size))
	must(t, scratch.ReadAt(t.Context(), file, 0))
	if got := dump(file); got != want {
		t.Errorf("the file is\n%s\n%s says\n%s", got, doc, want)
	}
}

// dump is b in hexadecimal, 16 bytes a line, without the lines of zeroes.
func dump(b []byte) string {
	var s strings.Builder
	for at := 0; at < len(b); at += 16 {
		if line := b[at : at+16]; !allZero(line) {
			fmt.Fprintf(&s, "%04x  % x  % x\n", at, line[:8], line[8:])
		}
	}
	return s.String()
}

// used returns a file that was closed, and what the device over it reads as.
func used(t testing.TB) (file, contents []byte) {
	scratch := blocktest.NewDisk(Size(small))
	contents = baseBytes(small)
	d, err := open(t.Context(), blocktest.NewMemory(baseBytes(small)), scratch, of(small), thisStart)
	if err != nil {
		t.Fatal(err)
	}
	p := bytes.Repeat([]byte("written"), 3000)
	for _, err := range []error{
		d.WriteAt(t.Context(), p, 9000, true), d.Trim(t.Context(), 40<<10, 8<<10, true), d.WriteAt(t.Context(), p[:99], 42<<10, true),
		d.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	copy(contents[9000:], p)
	clear(contents[40<<10 : 48<<10])
	copy(contents[42<<10:], p[:99])
	file = make([]byte, Size(small))
	scratch.Crash(nil)
	if err := scratch.ReadAt(t.Context(), file, 0); err != nil {
		t.Fatal(err)
	}
	return file, contents
}

// Any flipped bit in the metadata of a file that was closed is found, and no wrong byte is read for it.
func TestAFlippedBitInTheMetadataIsFound(t *testing.T) {
	file, contents := used(t)
	for at := range pageOffset(0, livePlace) {
		if at%pageSize >= headerName+16 && at%32 != headerChecksum%32 {
			continue // one byte is like the other there
		}
		p := bytes.Clone(file)
		p[at] ^= 1 << (at % 8)
		i, err := Inspect(t.Context(), blocktest.NewMemory(p))
		if err == nil && len(i.Faults) == 0 {
			t.Fatalf("the flipped bit at byte %d is not found", at)
		}
		d, openErr := open(t.Context(), blocktest.NewMemory(baseBytes(small)), diskOf(t, p), of(small), otherStart)
		if (err == nil) != (openErr == nil) {
			t.Fatalf("byte %d: Inspect says %v, Open %v", at, err, openErr)
		}
		if openErr != nil {
			continue
		}
		holds(t, d, contents)
		// The use has mended it.
		must(t, d.Close())
	}
	// A page that counts has one copy: the other place has what was there before.
	p := bytes.Clone(file)
	for place := range int64(livePlace) {
		p[pageOffset(0, int(place))+pageStates] ^= 1
	}
	var damage *DamageError
	if _, err := Inspect(t.Context(), blocktest.NewMemory(p)); !errors.As(err, &damage) || len(damage.Faults) == 0 || !errors.Is(err, ErrDamaged) {
		t.Errorf("%v, want a *DamageError", err)
	}
}

func TestFaultsAreMendedByTheNextUse(t *testing.T) {
	file, _ := used(t)
	file[headerSeq] ^= 1 // the first header
	scratch := diskOf(t, file)
	must(t, opened(t, baseBytes(small), scratch, thisStart).Close())
	scratch.Crash(nil)
	i, err := Inspect(t.Context(), scratch)
	if err != nil || len(i.Faults) > 0 || i.Open {
		t.Errorf("%+v, %v", i, err)
	}
}

func TestWhatIsNoOverlayIsRefused(t *testing.T) {
	file, _ := used(t)
	for name, c := range map[string]struct {
		spoil func(p []byte) []byte
		want  error
	}{
		"foreign":     {func(p []byte) []byte { copy(p, "QFI\xfb"); copy(p[headerSize:], "QFI\xfb"); return p }, ErrFormat},
		"newer":       {func(p []byte) []byte { p[headerVersion]++; p[headerSize+headerVersion]++; return p }, ErrVersion},
		"coarser":     {func(p []byte) []byte { return both(p, func(h []byte) { h[headerBlock+1]++ }) }, ErrVersion},
		"damaged":     {func(p []byte) []byte { p[headerSum] ^= 1; p[headerSize+headerSum] ^= 1; return p }, ErrDamaged},
		"cut off":     {func(p []byte) []byte { return p[:len(p)-1] }, ErrDamaged},
		"a beginning": {func(p []byte) []byte { return p[:headerSize] }, ErrFormat},
		"zeroes":      {func([]byte) []byte { return make([]byte, Size(small)+1) }, ErrFormat},
	} {
		p := c.spoil(bytes.Clone(file))
		scratch := diskOf(t, p)
		if _, err := open(t.Context(), blocktest.NewMemory(baseBytes(small)), scratch, of(small), thisStart); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		holds(t, scratch, p) // it was not written to
		if _, err := Inspect(t.Context(), scratch); !errors.Is(err, c.want) {
			t.Errorf("%s: Inspect says %v, want %v", name, err, c.want)
		}
	}
}

// both changes both headers, and makes their checksums right.
func both(p []byte, change func(h []byte)) []byte {
	for place := range headers {
		h := p[place*headerSize:][:headerSize]
		change(h)
		binary.LittleEndian.PutUint64(h[headerChecksum:], xxh3.Hash(h[:headerChecksum]))
	}
	return p
}

// FuzzHeader: a header is refused, or it is one that encodes to the same bytes.
func FuzzHeader(f *testing.F) {
	for _, h := range []header{{}, {base: of(small), seq: 1 << 40, sum: 99, open: true, boot: thisStart}} {
		f.Add(h.encode()[:headerSector])
	}
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := decodeHeader(b); err == nil && len(b) != headerSize {
			t.Fatalf("%d bytes taken for a header: %+v", len(b), h)
		}
		p := make([]byte, headerSize)
		copy(p, b)
		binary.LittleEndian.PutUint64(p[headerChecksum:], xxh3.Hash(p[:headerChecksum]))
		h, err := decodeHeader(p)
		if err != nil {
			return
		}
		again := h.encode()
		// What is not read may be anything.
		name := headerName + len(h.base.Name)
		if !bytes.Equal(again[:name], p[:name]) || h.base.Size < 0 {
			t.Fatalf("%+v encodes to\n% x, not\n% x", h, again[:name], p[:name])
		}
	})
}

// FuzzFile: whatever the file holds, with checksums that are right or not, it is refused, or the device reads all of it, and is
// there again after a write and a close.
func FuzzFile(f *testing.F) {
	file, _ := used(f)
	f.Add(file[:headerSector], file[headerSize:][:headerSector], file[pageOffset(0, 0):][:64], file[pageOffset(0, 1):][:64], true)
	f.Add([]byte(nil), file[headerSize:][:headerSector], []byte("x"), file[pageOffset(0, 1):][:64], false)
	f.Fuzz(func(t *testing.T, first, second, page, other []byte, right bool) {
		p := make([]byte, Size(small))
		copy(p[:headerSize], first)
		copy(p[headerSize:pageOffset(0, 0)], second)
		copy(p[pageOffset(0, 0):pageOffset(0, 1)], page)
		copy(p[pageOffset(0, 1):pageOffset(0, livePlace)], other)
		if right {
			both(p, func([]byte) {})
			for place := range livePlace {
				b := p[pageOffset(0, place):][:pageSize]
				binary.LittleEndian.PutUint64(b, xxh3.Hash(b[checksumSize:]))
			}
		}
		scratch := diskOf(t, p)
		d, err := open(t.Context(), blocktest.NewMemory(baseBytes(small)), scratch, of(small), otherStart)
		if err != nil {
			return
		}
		want := make([]byte, small)
		must(t, d.ReadAt(t.Context(), want, 0), d.WriteAt(t.Context(), []byte("fuzz"), 5000, true), d.Close())
		copy(want[5000:], "fuzz")
		scratch.Crash(nil)
		holds(t, opened(t, baseBytes(small), scratch, thisStart), want)
	})
}
