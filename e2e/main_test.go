//go:build linux

package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// shared is what all tests use: made before the first, removed after the last.
var shared struct {
	dir    string // of files that tests read and do not change
	binary string // dnbd
}

func TestMain(m *testing.M) {
	race := flag.Bool("dnbd.race", false, "build dnbd with the race detector (needs cgo)")
	flag.Parse()
	code, err := runAll(m, *race)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M, race bool) (code int, err error) {
	if lab.Missing() != "" {
		return m.Run(), nil // all skip, or fail
	}
	if shared.dir, err = os.MkdirTemp("", "dnbd-e2e-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(shared.dir)
	shared.binary = filepath.Join(shared.dir, "dnbd")
	build := exec.Command("go", "build", "-o", shared.binary, "../cmd/dnbd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if race {
		build = exec.Command("go", "build", "-race", "-o", shared.binary, "../cmd/dnbd")
	}
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build dnbd: %w: %s", err, out)
	}
	// The ancestors' names.
	for _, name := range []string{"dnbd-server", "dnbd-client"} {
		if err := os.Symlink(shared.binary, filepath.Join(shared.dir, name)); err != nil {
			return 0, err
		}
	}
	return m.Run(), nil
}
