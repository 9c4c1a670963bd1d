package image

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/block"
)

func TestEveryBlockReadsAsItIs(t *testing.T) {
	for _, size := range []int{1, 4095, 4096, 4097, 3 * 4096, 130*4096 + 9} {
		data := randomBytes(size, 1)
		path := writeImage(t, data)
		created := mustCreate(t, path, CreateOptions{BlockSize: 4096})
		m := mustOpen(t, path)
		if m.ID() != created.ID() || m.Descriptor() != created.Descriptor() {
			t.Errorf("%d bytes: opened %+v, created %+v", size, m.Descriptor(), created.Descriptor())
		}
		g, p := m.Geometry(), make([]byte, 4096)
		var got []byte
		for b := range g.Total() {
			n, err := m.ReadBlock(b, p)
			if err != nil || n != g.Len(b) {
				t.Fatalf("%d bytes: ReadBlock(%d) = %d, %v, want %d", size, b, n, err, g.Len(b))
			}
			if b < g.Data() {
				got = append(got, p[:n]...)
			} else if page := mustPage(t, m.Tree(), b); !bytes.Equal(p[:n], page) {
				t.Errorf("%d bytes: page %d reads wrong", size, b)
			}
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%d bytes: the blocks are not the file", size)
		}
	}
}

func TestAFlippedBitIsNoticedWhenTheTimeLies(t *testing.T) {
	data := randomBytes(10*4096, 1)
	path := writeImage(t, data)
	mustCreate(t, path, CreateOptions{BlockSize: 4096})
	data[7*4096+5] ^= 0x10
	overwrite(t, path, data)
	m := mustOpen(t, path)
	p := make([]byte, 4096)
	if _, err := m.ReadBlock(6, p); err != nil {
		t.Errorf("a block that did not change: %v", err)
	}
	_, err := m.ReadBlock(7, p)
	if !errors.Is(err, block.ErrCorrupt) {
		t.Fatalf("ReadBlock = %v, want block.ErrCorrupt", err)
	}
	for _, part := range []string{path, "block 7", "offset 28672"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %q: %v", part, err)
		}
	}
}

// A block that does not match its checksum is hashed: the checksum may be what is wrong, and a block that was put right can be read.
func TestAWrongChecksumIsNoWrongBlock(t *testing.T) {
	data := randomBytes(3*4096, 1)
	m := mustCreate(t, writeImage(t, data), CreateOptions{BlockSize: 4096})
	m.sidecar.Checksums[1]++
	p := make([]byte, 4096)
	if n, err := m.ReadBlock(1, p); err != nil || n != 4096 || !bytes.Equal(p, data[4096:8192]) {
		t.Errorf("ReadBlock = %d, %v", n, err)
	}
}

func TestAChangeAfterABlockWasReadIsNoticed(t *testing.T) {
	data := randomBytes(10*4096, 1)
	path := writeImage(t, data)
	m := mustCreate(t, path, CreateOptions{BlockSize: 4096})
	p := make([]byte, 4096)
	read := func() error {
		_, err := m.ReadBlock(7, p)
		return err
	}
	if err := errors.Join(read(), read()); err != nil {
		t.Fatal(err)
	}
	data[7*4096+5] ^= 0x10
	overwrite(t, path, data)
	if err := read(); !errors.Is(err, block.ErrCorrupt) {
		t.Errorf("after a change: %v, want block.ErrCorrupt", err)
	}
	data[7*4096+5] ^= 0x10
	overwrite(t, path, data)
	if err := read(); err != nil || !bytes.Equal(p, data[7*4096:8*4096]) {
		t.Errorf("after it was put right: %v", err)
	}
}

func TestAFileCutShortIsNoticed(t *testing.T) {
	path := writeImage(t, randomBytes(10*4096, 1))
	m := mustCreate(t, path, CreateOptions{BlockSize: 4096})
	if stale, err := m.Stale(); stale || err != nil {
		t.Errorf("Stale() of an unchanged file = %v, %v", stale, err)
	}
	if err := os.Truncate(path, 9*4096+1); err != nil {
		t.Fatal(err)
	}
	if _, err := m.ReadBlock(9, make([]byte, 4096)); !errors.Is(err, block.ErrCorrupt) {
		t.Errorf("ReadBlock behind the end = %v, want block.ErrCorrupt", err)
	}
	if stale, err := m.Stale(); !stale || err != nil {
		t.Errorf("Stale() = %v, %v, want true", stale, err)
	}
	if _, err := Open(path); !errors.Is(err, ErrOtherFile) {
		t.Errorf("Open = %v, want ErrOtherFile", err)
	}
}

func TestAnImageIsOpenedOnlyWithItsSidecar(t *testing.T) {
	path := writeImage(t, randomBytes(5000, 1))
	other := writeImage(t, randomBytes(6000, 2))
	mustCreate(t, other, CreateOptions{})
	foreign, err := os.ReadFile(SidecarPath(other))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrNoSidecar) {
		t.Errorf("no sidecar: %v", err)
	}
	for what, c := range map[string]struct {
		sidecar []byte
		want    error
	}{
		"of another file": {foreign, ErrOtherFile},
		"cut short":       {foreign[:len(foreign)-1], ErrSidecarTruncated},
		"text":            {[]byte("a text"), ErrSidecarMagic},
	} {
		if err := os.WriteFile(SidecarPath(path), c.sidecar, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path)
		if !errors.Is(err, c.want) {
			t.Errorf("a sidecar %s: %v, want %v", what, err, c.want)
		} else if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "image create") {
			t.Errorf("a sidecar %s: the error does not name the file and the way out: %v", what, err)
		}
	}
}

func TestATouchedFileIsStaleAndACopyIsNot(t *testing.T) {
	data := randomBytes(5000, 1)
	path := writeImage(t, data)
	m := mustCreate(t, path, CreateOptions{})
	copied := writeImage(t, data)
	sidecar, err := os.ReadFile(SidecarPath(path))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(SidecarPath(copied), sidecar, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := mustOpen(t, copied).ID(); got != m.ID() {
		t.Errorf("a copy has the id %v, want %v", got, m.ID())
	}
	touch(t, path, time.Unix(1_800_000_000, 0))
	if stale, err := m.Stale(); !stale || err != nil {
		t.Errorf("Stale() = %v, %v, want true", stale, err)
	}
	if _, err := Open(path); !errors.Is(err, ErrStale) || errors.Is(err, ErrOtherFile) {
		t.Errorf("Open = %v, want ErrStale", err)
	}
}

func TestWhatIsNoImageIsRefusedByName(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "absent"): "no such file",
		dir:                          "is a directory",
		empty:                        "is empty",
		pipe:                         "neither a file nor a block device",
		"/dev/null":                  "neither a file nor a block device",
	} {
		for what, open := range map[string]func(string) error{
			"Open":   func(path string) error { _, err := Open(path); return err },
			"Create": func(path string) error { _, err := Create(t.Context(), path, CreateOptions{}); return err },
			"Verify": func(path string) error { _, err := Verify(t.Context(), path, nil); return err },
		} {
			err := open(path)
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s(%s) = %v, want %q and the path", what, path, err, want)
			}
		}
	}
}

func TestReadBlockRefusesWhatItCannotDo(t *testing.T) {
	m := mustCreate(t, writeImage(t, randomBytes(5000, 1)), CreateOptions{BlockSize: 4096})
	p := make([]byte, 4096)
	for _, b := range []uint32{3, math.MaxUint32} {
		if _, err := m.ReadBlock(b, p); !errors.Is(err, block.ErrRange) {
			t.Errorf("ReadBlock(%d) = %v, want block.ErrRange", b, err)
		}
	}
	for b := range m.Geometry().Total() {
		if _, err := m.ReadBlock(b, p[:31]); !errors.Is(err, io.ErrShortBuffer) {
			t.Errorf("ReadBlock(%d) into 31 bytes = %v, want io.ErrShortBuffer", b, err)
		}
	}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := m.ReadBlock(0, p); !errors.Is(err, block.ErrClosed) {
		t.Errorf("ReadBlock of a closed image = %v, want block.ErrClosed", err)
	}
}

func TestReadBlockAllocatesNothing(t *testing.T) {
	m := mustCreate(t, writeImage(t, randomBytes(200_000, 1)), CreateOptions{})
	p := make([]byte, DefaultBlockSize)
	if n := testing.AllocsPerRun(100, func() {
		for b := range m.Geometry().Total() {
			if _, err := m.ReadBlock(b, p); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkReadBlock(b *testing.B) {
	const blocks = 1024
	m := mustCreate(b, writeImage(b, randomBytes(blocks*DefaultBlockSize, 1)), CreateOptions{})
	b.SetBytes(DefaultBlockSize)
	b.ReportAllocs()
	p := make([]byte, DefaultBlockSize)
	for i := uint32(0); b.Loop(); i++ {
		if _, err := m.ReadBlock(i%blocks, p); err != nil {
			b.Fatal(err)
		}
	}
}

func TestARenamedImageKeepsItsSidecarsName(t *testing.T) {
	path := writeImage(t, randomBytes(5000, 1))
	mustCreate(t, path, CreateOptions{Name: "debian", Revision: 3})
	m := mustOpen(t, path)
	want := m.Descriptor()
	if err := m.Rename("a/b"); !errors.Is(err, ErrName) || m.Descriptor() != want {
		t.Errorf("Rename to what is no name = %v, and it is %+v", err, m.Descriptor())
	}
	if err := m.Rename("golden"); err != nil {
		t.Fatal(err)
	}
	if d := mustOpen(t, path).Descriptor(); d != want {
		t.Errorf("the sidecar says %+v, want %+v", d, want)
	}
	if want.Name = "golden"; m.Descriptor() != want || m.ID() != want.ID() {
		t.Errorf("the image is %+v, want %+v", m.Descriptor(), want)
	}
}
