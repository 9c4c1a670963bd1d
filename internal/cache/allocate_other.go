//go:build !linux

package cache

import "os"

// allocate makes f size bytes long. The space is taken as the cache fills.
func allocate(f *os.File, size int64) error { return f.Truncate(size) }
