//go:build linux

// Package vm boots real kernels in virtual machines, for tests of what the machine's own kernel does not have: kernel NBD, ublk,
// diskless boot. QEMU emulates them in software, so they run wherever it does, and take seconds to boot.
//
// A guest has one of two kernels of Debian (scripts/fetch-kernels.sh), and an initramfs that is made for it: busybox, dnbd, the
// modules that a test names, and an init whose agent starts programs at the test's word. It can be a host in a network of
// package lab.
//
// It needs Linux on amd64, go, and the programs qemu-system-x86_64 and busybox (static); for a network, what package lab needs.
package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// emulator is QEMU's program.
const emulator = "qemu-system-x86_64"

// Missing says why no guest can be booted here ("needs the program …"); it is empty when one can.
func Missing() string {
	if runtime.GOARCH != "amd64" {
		return "needs amd64"
	}
	if _, err := exec.LookPath(emulator); err != nil {
		return "needs the program " + emulator + " (Debian: qemu-system-x86)"
	}
	if _, err := findBusybox(); err != nil {
		return err.Error()
	}
	for _, k := range Kernels() {
		dir, err := k.dir()
		if err != nil {
			return "needs a place for kernels: " + err.Error()
		}
		if _, err := os.Stat(dir); err != nil {
			return fmt.Sprintf("needs a kernel in %s: run scripts/fetch-kernels.sh", dir)
		}
	}
	return ""
}

// findBusybox returns the path of a busybox that needs no libraries.
func findBusybox() (string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", errors.New("needs the program busybox (Debian: busybox-static)")
	}
	return path, nil
}

// Rack is where guests are booted: it has what all of them are made of.
type Rack struct {
	dir string // with dnbd and init
}

// NewRack builds the programs that guests have, into dir, which the caller removes when all guests have ended. It is called in
// a directory of this module.
func NewRack(dir string) (*Rack, error) {
	for name, pkg := range map[string]string{"dnbd": "cmd/dnbd", "init": "e2e/vm/init", "load": "e2e/vm/load"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), "github.com/dnbd/dnbd/"+pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s for guests: %w: %s", name, err, out)
		}
	}
	return &Rack{dir: dir}, nil
}

// Load has a guest have the program that puts a load on devices, as /load: Options.Files.
func (r *Rack) Load() map[string]string {
	return map[string]string{"/load": filepath.Join(r.dir, "load")}
}

// Dnbd is the path of the dnbd that guests have, for hosts that are to have the same.
func (r *Rack) Dnbd() string { return filepath.Join(r.dir, "dnbd") }
