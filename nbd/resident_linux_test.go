package nbd

import (
	"bytes"
	"context"
	"testing"

	"golang.org/x/sys/unix"
)

// evict asks the kernel to forget n bytes of d at off.
func evict(t *testing.T, d *backed, off, n int64) {
	t.Helper()
	if err := d.f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(d.f.Fd()), off, n, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

// able says whether the whole of d is in memory, and its file system says so, which a tmpfs does not.
func able(d *backed) bool { return newResident(d).read(make([]byte, d.size), 0) }

func TestWhatIsInMemoryIsReadWithoutTheDevice(t *testing.T) {
	const size = 4 << 20
	d := newBacked(t, size)
	able := able(d)
	for _, network := range []string{"tcp", "unix"} {
		s := serve(t, ServerConfig{Exports: []Export{{Device: d}}}, listen(t, network))
		for _, style := range styles {
			c := dial(t, s.addr).chosen(style)
			for _, n := range []int{1, 512, 4096, spliceMin - 1, 256<<10 + 1, nowMost - 64<<10} {
				if got := c.get(12345, uint64(n)); got != string(patternBytes(12345, n)) {
					t.Errorf("%s, style %d: wrong bytes in %d", network, style, n)
				}
			}
		}
	}
	if got := d.reads.Load(); able && got > 0 {
		t.Errorf("%d reads of the device", got)
	}
	c := device(t, d, styleStructured)
	if got := c.get(12345, nowMost+1); got != string(patternBytes(12345, nowMost+1)) || d.reads.Load() == 0 {
		t.Errorf("a read too large to be done at once: %d reads of the device", d.reads.Load())
	}
}

func TestWhatIsNotInMemoryTheDeviceReads(t *testing.T) {
	d := newBacked(t, 4<<20)
	c := device(t, d, styleStructured)
	if err := d.f.Truncate(2 << 20); err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint64{4096, 256 << 10} {
		if a := c.request(0, cmdRead, 2<<20-1024, n); a.errno != errIO {
			t.Errorf("%d bytes that reach behind the end of a file that was made shorter: errno %d, want EIO", n, a.errno)
		}
	}
	for off := range int64(8) {
		off *= 256 << 10
		evict(t, d, off, 256<<10)
		if got := c.get(uint64(off), 256<<10); got != string(patternBytes(off, 256<<10)) {
			t.Errorf("wrong bytes at %d", off)
		}
	}
}

// barred is a device whose reads, unless they are of what is in memory, wait.
type barred struct {
	*backed
	gate chan struct{}
}

func (d barred) ReadAt(ctx context.Context, p []byte, off int64) error {
	<-d.gate
	return d.backed.ReadAt(ctx, p, off)
}

func TestAReadOfADiskHoldsNoneOfMemoryUp(t *testing.T) {
	const size, length = 2 << 20, 256 << 10
	d := barred{newBacked(t, size), make(chan struct{})}
	able := able(d.backed)
	if able {
		evict(t, d.backed, 0, length)
	} else {
		close(d.gate)
	}
	c := device(t, d, styleStructured)
	for i := range uint64(size / length) {
		c.write(requestBytes(0, cmdRead, i, i*length, length))
	}
	for i := range size / length {
		if able && i == size/length-1 {
			close(d.gate)
		}
		a, err := readAnswer(c.conn, func(uint64) uint32 { return length })
		if err != nil || a.errno != 0 || !bytes.Equal(a.data, patternBytes(int64(a.cookie*length), length)) {
			t.Fatalf("read %d: wrong bytes, error %d, %v", a.cookie, a.errno, err)
		}
	}
}
