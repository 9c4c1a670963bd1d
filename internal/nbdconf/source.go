package nbdconf

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// source is where files come from.
type source interface {
	read(path string) ([]byte, error)
	// list returns the paths of the files of a directory, sorted by name. Directories are left out.
	list(dir string) ([]string, error)
}

// disk is the files of this machine.
type disk struct{}

// maxFile bounds a configuration file, in bytes. It has room for ten thousand exports.
const maxFile = 4 << 20

func (disk) read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("read %s: larger than %d bytes", path, maxFile)
	}
	return data, err
}

func (disk) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if !e.IsDir() {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}
