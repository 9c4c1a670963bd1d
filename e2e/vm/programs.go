//go:build linux

package vm

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// libraryDirs are where Debian keeps shared libraries.
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/lib", "/usr/lib"}

// program adds a program of the host to the guest, at /bin, with the libraries that it is linked to.
func (a *archive) program(name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("the guest is to have the program %s: %w", name, err)
	}
	a.file("/bin/"+filepath.Base(name), file)
	return a.libraries(file)
}

// libraries adds the loader and the libraries of an ELF file, and theirs.
func (a *archive) libraries(file string) error {
	e, err := elf.Open(file)
	var format *elf.FormatError
	if errors.As(err, &format) {
		return nil // a script
	} else if err != nil {
		return err
	}
	defer e.Close()
	if s := e.Section(".interp"); s != nil {
		loader, err := s.Data()
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		path := string(loader[:len(loader)-1])
		a.file(path, path)
	}
	names, err := e.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, name := range names {
		path, err := findLibrary(name)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if at := "/lib/" + name; a.parent(at) {
			a.file(at, path)
			if err := a.libraries(path); err != nil {
				return err
			}
		}
	}
	return nil
}

func findLibrary(name string) (string, error) {
	for _, dir := range libraryDirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("its library %s is in none of %v", name, libraryDirs)
}
