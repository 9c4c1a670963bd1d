//go:build linux

package vm_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/dnbd/dnbd/e2e/vm"
)

// rack is where all tests boot their guests. It is made before the first.
var rack *vm.Rack

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	if vm.Missing() != "" {
		return m.Run(), nil // all skip, or fail
	}
	dir, err := os.MkdirTemp("", "dnbd-rack-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if rack, err = vm.NewRack(dir); err != nil {
		return 0, err
	}
	return m.Run(), nil
}
