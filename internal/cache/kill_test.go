//go:build unix

package cache

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// killedFile tells this test binary that it is the one to be killed, and names its cache file.
const killedFile = "DNBD_TEST_KILLED_CACHE"

// TestACacheKilledWhileItWritesNeverGivesWrongBytes runs itself again as a process that puts blocks as fast as it can,
// kills it with SIGKILL, and looks at what is left, many times over on the same file.
func TestACacheKilledWhileItWritesNeverGivesWrongBytes(t *testing.T) {
	const slotSize, slots, blocks, rounds = 64 << 10, 40, 100, 12
	if path := os.Getenv(killedFile); path != "" {
		writeUntilKilled(t, path, slotSize, blocks)
		return
	}
	path := filepath.Join(t.TempDir(), "cache")
	c, err := Open(path, dataOffset(slots)+slots*slotSize, slotSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeCache(t, c)
	hits, torn := 0, uint64(0)
	for round := range rounds {
		killWhileWriting(t, path, 1+rand.IntN(20))

		rep, err := Check(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Open(path, 0, slotSize, nil)
		if err != nil {
			t.Fatal(err)
		}
		n := readable(t, c, 0, blocks)
		st := c.Stats()
		if n == 0 || n > rep.Good || st.Used != n {
			t.Errorf("round %d: %d blocks can be read, Check found %d good ones, %+v", round, n, rep.Good, st)
		}
		checkInvariants(t, c)
		hits += n
		torn += st.Bad
		closeCache(t, c)
	}
	t.Logf("%d kills: %d of %d entries survived, %d were torn", rounds, hits, rounds*slots, torn)
}

// killWhileWriting starts the process, and kills it once it has reported progress so many times.
func killWhileWriting(t *testing.T, path string, reports int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), killedFile+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range reports {
		if !lines.Scan() {
			break
		}
	}
	killErr := cmd.Process.Kill()
	var exit *exec.ExitError
	if err := cmd.Wait(); killErr != nil || !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process was not killed but ended with %v (%v, last line %q)", err, killErr, lines.Text())
	}
}

// writeUntilKilled puts and reads blocks from several goroutines, and ends by itself in the end.
func writeUntilKilled(t *testing.T, path string, slotSize, blocks int) {
	c, err := Open(path, 0, slotSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer closeCache(t, c)
	keys, data := make([]Key, blocks), make([][]byte, blocks)
	for i := range blocks {
		keys[i], data[i] = block(i, slotSize)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			p := make([]byte, 100)
			for i := range 200_000 {
				n := rand.IntN(blocks)
				if !c.Get(keys[n], p, 0) {
					c.Put(keys[n], data[n], i%2 == 0)
				}
				if g == 0 && i%50 == 0 {
					fmt.Println(i)
				}
			}
		})
	}
	wg.Wait()
}
