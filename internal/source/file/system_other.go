//go:build !linux

package file

import (
	"errors"
	"os"
)

// sectorSize returns what every disk's sectors are at least; nothing here depends on it.
func sectorSize(*os.File) (int64, error) { return 512, nil }

// checkWritable leaves it to the first write.
func checkWritable(*os.File) error { return nil }

// willNeed does nothing: the system reads ahead as it sees fit.
func willNeed(int, int64, int64) error { return nil }

// extent says that all is data.
func extent(_ int, _, size int64) (data bool, next int64, err error) { return true, size, nil }

func (w *ways) trim(int, int64, int64, bool) error { return errors.ErrUnsupported }

func (w *ways) zero(int, int64, int64, bool, bool, bool) error { return errors.ErrUnsupported }

func (w *ways) writeForced(int, []byte, int64) error { return errors.ErrUnsupported }

// syncData puts the file's contents on stable storage.
func syncData(f *os.File) error { return f.Sync() }
