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
	"testing"
	"time"

	"github.com/dnbd/dnbd/nbd"
)

// patience bounds every wait for what takes moments.
const patience = time.Minute

// killable is a dnbd of its own process.
type killable struct {
	t    *testing.T
	args []string
	env  []string
	cmd  *exec.Cmd
	said bytes.Buffer // on standard error
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
	for lines := bufio.NewScanner(out); lines.Scan(); {
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
