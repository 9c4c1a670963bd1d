//go:build linux

package vm_test

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// serve starts dnbd serve on a host of a network, waits until it serves, and ends it with the test.
func serve(t *testing.T, l *lab.Lab, host string, args ...string) {
	t.Helper()
	dir := t.TempDir()
	cmd := l.Command(context.Background(), host, rack.Dnbd(), append([]string{"serve"}, args...)...)
	cmd.Env = append(os.Environ(), "DNBD_RUNDIR="+dir)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("dnbd serve on %s ended with %v", host, err)
		}
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("dnbd serve on %s:\n%s", host, text)
		}
	})
	// What it prints later is little, and fits the pipe.
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "control ") {
			return
		}
	}
	t.Fatalf("dnbd serve on %s does not serve", host)
}
