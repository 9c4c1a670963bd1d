package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
)

// backed is a device in a file, which counts what is read in another way than from that.
type backed struct {
	f     *os.File
	size  int64
	reads atomic.Int64
}

func (d *backed) Size() int64       { return d.size }
func (d *backed) Backing() *os.File { return d.f }

func (d *backed) ReadAt(_ context.Context, p []byte, off int64) error {
	d.reads.Add(1)
	_, err := d.f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the file is too short: %w", syscall.EIO)
	}
	return err
}

// newBacked returns a device of size bytes of patternBytes.
func newBacked(t *testing.T, size int) *backed {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(patternBytes(0, size)); err != nil {
		t.Fatal(err)
	}
	return &backed{f: f, size: int64(size)}
}

// The requests of many large reads are sent before a reply is read, so that they compete for pipes.
func TestALargeReadOfAFileIsSpliced(t *testing.T) {
	const size = 8 << 20
	for _, style := range []replyStyle{styleSimple, styleStructured, styleExtended} {
		d := newBacked(t, size)
		s := serve(t, ServerConfig{Exports: []Export{{Device: d}}}, listen(t, "unix"))
		c := dial(t, s.addr).chosen(style)
		for range 2 * quickRun {
			if got := c.get(12345, spliceMin+1); got != string(patternBytes(12345, spliceMin+1)) {
				t.Fatal("wrong bytes")
			}
		}
		if got := d.reads.Load(); got > 0 {
			t.Errorf("%d reads, one at a time, were not spliced", got)
		}
		r := rand.New(rand.NewPCG(1, uint64(style)))
		type read struct{ off, n uint64 }
		reads := map[uint64]read{}
		for cookie := range uint64(64) {
			n := spliceMin + r.Uint64N(pipeSize-spliceMin)
			reads[cookie] = read{r.Uint64N(size - n + 1), n}
			if style == styleExtended {
				c.write(extendedBytes(0, cmdRead, cookie, reads[cookie].off, n))
			} else {
				c.write(requestBytes(0, cmdRead, cookie, reads[cookie].off, uint32(n)))
			}
		}
		for range reads {
			a, err := readAnswer(c.conn, func(cookie uint64) uint32 { return uint32(reads[cookie].n) })
			if err != nil || a.errno != 0 {
				t.Fatalf("errno %d, %v", a.errno, err)
			}
			want := reads[a.cookie]
			if !bytes.Equal(a.data, patternBytes(int64(want.off), int(want.n))) {
				t.Fatalf("%d bytes at %d are wrong", want.n, want.off)
			}
		}
	}
}

func TestASplicedReadOfAShortenedFileFails(t *testing.T) {
	d := newBacked(t, 1<<20)
	s := serve(t, ServerConfig{Exports: []Export{{Device: d}}}, listen(t, "unix"))
	c := dial(t, s.addr).chosen(styleStructured)
	if err := d.f.Truncate(512 << 10); err != nil {
		t.Fatal(err)
	}
	for range 2 * maxPipes { // each leaves a pipe with half of what was asked for
		if a := c.request(0, cmdRead, 256<<10, 512<<10); a.errno != errIO {
			t.Fatalf("errno %d, want EIO", a.errno)
		}
	}
	if got := c.get(0, 256<<10); got != string(patternBytes(0, 256<<10)) {
		t.Error("what is left of the file reads as something else")
	}
}

func TestPipesAreClosedWithTheConnection(t *testing.T) {
	d := newBacked(t, 1<<20)
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := open()
	for range 10 {
		s := serve(t, ServerConfig{Exports: []Export{{Device: d}}}, listen(t, "unix"))
		c := dial(t, s.addr).chosen(styleSimple)
		for range 8 {
			c.write(requestBytes(0, cmdRead, 1, 0, 1<<20))
		}
		if _, err := readAnswer(c.conn, func(uint64) uint32 { return 1 << 20 }); err != nil {
			t.Fatal(err)
		}
		c.conn.Close() // with replies under way, one of them partly sent perhaps
		s.stop()
		s.done <- <-s.done
	}
	if after := open(); after > before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}
