//go:build !linux

package image

import (
	"errors"
	"io"
)

// mapFile says that files are read here, not mapped.
func mapFile(io.ReaderAt, int64, int) ([]byte, error) { return nil, errors.ErrUnsupported }

func populate([]byte) {}

func unmapFile([]byte) error { return errors.ErrUnsupported }
