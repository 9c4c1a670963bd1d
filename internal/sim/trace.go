package sim

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dnbd/dnbd/image"
)

//go:embed boot.trace
var bootTrace string

// Trace is what a machine reads of a disk, and when.
type Trace struct {
	Reads  []TraceRead
	Blocks []uint32 // of the image, that are read, in that order
}

// TraceRead is one read of a Trace.
type TraceRead struct {
	After  int           // the read at whose end the time for this one begins; -1 for the start
	Think  time.Duration // until it begins
	Blocks []uint32      // that it needs and no read before it did: pages of the tree too
	first  int           // place of the first of these in Trace.Blocks
}

// BootTrace is the boot of a Debian to a root shell, as e2e/vm/record recorded it, from an image of the given block size; and that
// image, whose bytes are not those of the disk.
func BootTrace(blockSize int) (*Trace, *Image) {
	i := NewImage(600<<20, blockSize)
	t, err := ParseTrace(strings.NewReader(bootTrace), i.geometry)
	if err != nil {
		panic("sim: boot.trace: " + err.Error()) // a file of ours
	}
	return t, i
}

// ParseTrace reads a recorded trace. Each line is a read: the number of reads from the one after whose end it began to itself, the
// microseconds between, and the offset and the length in bytes. Lines that begin with # are comments.
func ParseTrace(in io.Reader, g image.Geometry) (*Trace, error) {
	t := &Trace{}
	known := map[uint32]bool{}
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		var back, micros int
		var offset, length int64
		if _, err := fmt.Sscanf(lines.Text(), "%d %d %d %d", &back, &micros, &offset, &length); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		switch {
		case back < 0 || back > len(t.Reads) || back == 0 && len(t.Reads) > 0 || back > readsAtOnce || micros < 0:
			return nil, fmt.Errorf("line %d: %d us after the read %d before it", n, micros, back)
		case offset < 0 || length <= 0 || length > g.Size() || offset > g.Size()-length:
			return nil, fmt.Errorf("line %d: %d bytes at %d of an image of %d", n, length, offset, g.Size())
		}
		r := TraceRead{After: len(t.Reads) - back, Think: time.Duration(micros) * time.Microsecond, first: len(t.Blocks)}
		if back == 0 {
			r.After = -1
		}
		for at := offset / int64(g.BlockSize()); at <= (offset+length-1)/int64(g.BlockSize()); at++ {
			for block, ok := uint32(at), true; ok && !known[block]; block, _, ok = g.Parent(block) {
				known[block] = true
				r.Blocks = append(r.Blocks, block)
			}
		}
		t.Reads = append(t.Reads, r)
		t.Blocks = append(t.Blocks, r.Blocks...)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(t.Reads) == 0 {
		return nil, fmt.Errorf("no reads")
	}
	return t, nil
}
