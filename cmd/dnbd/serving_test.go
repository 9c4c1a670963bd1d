//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dnbd/dnbd/nbd"
)

// patience bounds every wait for what takes moments.
const patience = time.Minute

// lacking skips the test because of what the machine lacks, or fails it where nothing may be missing.
func lacking(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("DNBD_REQUIRE") == "1" {
		t.Fatalf("%s, and DNBD_REQUIRE=1", what)
	}
	t.Skip(what)
}

// killable is a dnbd of its own process.
type killable struct {
	t    *testing.T
	args []string
	env  []string
	cmd  *exec.Cmd
	told string // on standard output, until clients could connect
	said words  // on standard error
}

// words is what a process says.
type words struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

// Write implements io.Writer.
func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

// String is all of it so far.
func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// serving starts `dnbd serve --group none` with more arguments. It is killed when the test ends.
func serving(t *testing.T, args ...string) *killable {
	t.Helper()
	// Not below the test's own directory: that may have too long a path for sockets.
	run, err := os.MkdirTemp("", "dnbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	s := &killable{t: t, args: append([]string{"serve", "--group", noGroup}, args...), env: append(os.Environ(), "DNBD_RUNDIR="+run)}
	s.start()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("%v:\n%s", s.args, &s.said)
		}
	})
	return s
}

// start starts it, and returns when clients can connect.
func (s *killable) start() {
	s.t.Helper()
	s.cmd = exec.Command("dnbd", s.args...)
	s.cmd.Env, s.cmd.Stderr = s.env, &s.said
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	stuck := time.AfterFunc(patience, func() { s.cmd.Process.Kill() })
	defer stuck.Stop()
	s.told = ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		s.told += lines.Text() + "\n"
		if strings.HasPrefix(lines.Text(), "control ") { // the last line
			return
		}
	}
	s.t.Fatalf("dnbd %v does not serve: %v\n%s", s.args, s.cmd.Wait(), &s.said)
}

// kill ends it as a crash would.
func (s *killable) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// dialed connects to a server at a unix socket. It is closed when the test ends.
func dialed(t *testing.T, socket string) *nbd.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := nbd.Dial(ctx, "nbd+unix:///?socket="+socket, nbd.DialConfig{Connections: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// socketPath is a path for a socket, short enough.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dnbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}
