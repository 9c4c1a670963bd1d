//go:build linux

package vm

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Kernel is one of those that scripts/fetch-kernels.sh fetches: the suite of Debian that its package is in.
type Kernel string

const (
	// Stable is Linux 6.1. It has nbd.
	Stable Kernel = "bookworm"
	// Backports is Linux 6.12. It has nbd, ublk_drv, and FUSE with passthrough.
	Backports Kernel = "bookworm-backports"
)

// Kernels returns all kernels.
func Kernels() []Kernel { return []Kernel{Stable, Backports} }

// dir is where fetch-kernels.sh has put the kernel.
func (k Kernel) dir() (string, error) { return fetched(string(k)) }

// SignedLoaders is the directory where fetch-kernels.sh has put the boot loaders that firmware with Secure Boot starts.
func SignedLoaders() (string, error) { return fetched("loaders") }

// fetched is where fetch-kernels.sh puts what it calls name.
func fetched(name string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "dnbd", "kernels", name), nil
}

// Modules returns the directory on the host with the kernel's modules, which belongs at /lib/modules/RELEASE, and that release.
func (k Kernel) Modules() (dir, release string, err error) {
	at, err := k.dir()
	if err != nil {
		return "", "", err
	}
	text, err := os.ReadFile(filepath.Join(at, "release"))
	return filepath.Join(at, "modules"), strings.TrimSpace(string(text)), err
}

// modules is the tree of a kernel's modules.
type modules struct {
	release string              // what uname -r says
	dir     string              // what is /lib/modules/RELEASE in the guest
	files   map[string]string   // by name: the file below dir
	needs   map[string][]string // by file: all files that it needs, in the order of modules.dep: the first loaded last
	builtin map[string]bool     // names of those that the kernel has in itself
}

// modules reads what modules the kernel has.
func (k Kernel) modules() (*modules, error) {
	dir, release, err := k.Modules()
	if err != nil {
		return nil, err
	}
	m := &modules{
		release: release, dir: dir,
		files: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{},
	}
	err = eachLine(filepath.Join(m.dir, "modules.dep"), func(line string) {
		file, needs, _ := strings.Cut(line, ":")
		m.files[moduleName(file)] = file
		m.needs[file] = strings.Fields(needs)
	})
	if err != nil {
		return nil, err
	}
	return m, eachLine(filepath.Join(m.dir, "modules.builtin"), func(line string) { m.builtin[moduleName(line)] = true })
}

// order returns the files of the modules called names, and of those that they need, in the order in which they can be loaded.
func (m *modules) order(names []string) (files []string, err error) {
	for _, name := range names {
		name = moduleName(name)
		if m.builtin[name] {
			continue
		}
		file, ok := m.files[name]
		if !ok {
			return nil, fmt.Errorf("kernel %s has no module %s", m.release, name)
		}
		for _, f := range slices.Backward(append([]string{file}, m.needs[file]...)) {
			if !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	return files, nil
}

// moduleName is the name of a module in a file, as lsmod prints it.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// eachLine calls f with the lines of a file.
func eachLine(file string, f func(string)) error {
	r, err := os.Open(file)
	if err != nil {
		return err
	}
	defer r.Close()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f(lines.Text())
	}
	return lines.Err()
}
