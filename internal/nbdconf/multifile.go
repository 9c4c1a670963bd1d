package nbdconf

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
)

// maxParts bounds the files of one export: each stays open while a client is served.
const maxParts = 4096

// Part is one file of an export with multifile, and the bytes of the export that it holds.
type Part struct {
	Path string
	Off  int64 // where the part begins in the export, in bytes
	Size int64 // how many bytes of the export it holds, from its own byte 0
}

// Parts finds the files name.0, name.1, … of an export, up to the first that does not exist. The callback returns the size of
// a file in bytes, or an error that is fs.ErrNotExist. A filesize above 0 is the size of the whole export: the files must
// hold that much, and what they hold beyond it is left out.
func Parts(name string, filesize int64, size func(path string) (int64, error)) ([]Part, error) {
	var parts []Part
	var end int64
	for {
		path := fmt.Sprintf("%s.%d", name, len(parts))
		n, err := size(path)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("multifile: %w", err)
		case len(parts) == maxParts:
			return nil, fmt.Errorf("multifile: %s.0 and on are more than %d files", name, maxParts)
		case n < 0 || n > math.MaxInt64-end:
			return nil, fmt.Errorf("multifile: the files up to %s are too large together", path)
		}
		parts = append(parts, Part{path, end, n})
		end += n
	}
	switch {
	case len(parts) == 0:
		return nil, fmt.Errorf("multifile: %s.0: %w", name, fs.ErrNotExist)
	case filesize > end:
		return nil, fmt.Errorf("multifile: %s.0 to %d hold %d bytes, and filesize is %d", name, len(parts)-1, end, filesize)
	case filesize > 0:
		parts = cut(parts, filesize)
	}
	return parts, nil
}

// cut leaves out what parts hold beyond size.
func cut(parts []Part, size int64) []Part {
	for i := range parts {
		if p := &parts[i]; p.Off+p.Size >= size {
			p.Size = size - p.Off
			return parts[:i+1]
		}
	}
	return parts
}
