//go:build unix

package overlay

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/source/file"
)

// killedFile tells this test binary that it is the one to be killed, and names its overlay.
const killedFile = "DNBD_TEST_KILLED_OVERLAY"

const (
	killedSize  = 8 << 20
	killedShare = killedSize / killedWriters / BlockSize // blocks of one writer
	// killedWriters is how many write at once, each to blocks of its own.
	killedWriters = 4
)

// openFile opens the overlay in a file over a device of 0xee bytes.
func openFile(t *testing.T, path string, boot [bootSize]byte) *Device {
	t.Helper()
	scratch, err := file.Create(path, Size(killedSize))
	must(t, err)
	d, err := open(t.Context(), blocktest.NewMemory(bytes.Repeat([]byte{0xee}, killedSize)), scratch, of(killedSize), boot)
	must(t, err)
	return d
}

// TestAnOverlayKilledUnderLoadHasWhatItAnswered runs itself again as a process that writes as fast as it can and tells what was
// answered, kills it with SIGKILL, and looks at what is left, many times over on the same file.
func TestAnOverlayKilledUnderLoadHasWhatItAnswered(t *testing.T) {
	if path := os.Getenv(killedFile); path != "" {
		writeUntilKilled(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "overlay")
	must(t, openFile(t, path, thisStart).Close())
	// answered and begun are the numbers that each block was written with last, 0 for none.
	answered, begun := make([]uint32, killedSize/BlockSize), make([]uint32, killedSize/BlockSize)
	for round := range 8 {
		killWhileWriting(t, path, 50+rand.IntN(2000), answered, begun)
		d := openFile(t, path, thisStart)
		got := make([]byte, BlockSize)
		for b := range int64(len(answered)) {
			must(t, d.ReadAt(t.Context(), got, b*BlockSize))
			n := numberOf(t, got)
			if n != answered[b] && n != begun[b] {
				t.Fatalf("round %d: block %d has number %d, %d was answered and %d begun", round, b, n, answered[b], begun[b])
			}
			answered[b], begun[b] = n, n
		}
		must(t, d.Close())
	}
}

// numberOf is the number that all words of a block have: 0 for one that is the base's.
func numberOf(t *testing.T, p []byte) uint32 {
	t.Helper()
	n := binary.LittleEndian.Uint32(p)
	if !bytes.Equal(p, filled(n)) && n != 0xeeeeeeee {
		t.Fatalf("a block of several writes: % x …", p[:64])
	}
	if n == 0xeeeeeeee {
		return 0
	}
	return n
}

// filled is a block of a number.
func filled(n uint32) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint32(nil, n), BlockSize/4)
}

// killWhileWriting starts the process, and kills it once it has told so many things. It notes what was told.
func killWhileWriting(t *testing.T, path string, reports int, answered, begun []uint32) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), killedFile+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewReader(out)
	var killed error
	for told := 0; ; told++ {
		if told == reports {
			killed = cmd.Process.Kill()
		}
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break // what is left of a line was not told
		}
		must(t, err)
		var what string
		var b int
		var n uint32
		if _, err := fmt.Sscan(line, &what, &b, &n); err != nil {
			t.Fatalf("it says %q", strings.TrimSpace(line))
		}
		if begun[b] = n; what == "answered" {
			answered[b] = n
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); killed != nil || !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process was not killed but ended with %v (%v)", err, killed)
	}
}

// writeUntilKilled writes blocks from several goroutines and tells of each before and after.
func writeUntilKilled(t *testing.T, path string) {
	d := openFile(t, path, thisStart)
	var wg sync.WaitGroup
	for w := range killedWriters {
		wg.Go(func() {
			for {
				b, n := w*killedShare+rand.IntN(killedShare), rand.Uint32N(1<<31)+1
				fmt.Printf("begun %d %d\n", b, n)
				if err := d.WriteAt(t.Context(), filled(n), int64(b)*BlockSize, rand.IntN(50) == 0); err != nil {
					t.Error(err)
					return
				}
				fmt.Printf("answered %d %d\n", b, n)
			}
		})
	}
	wg.Wait()
}
