//go:build unix

package file

import "os"

// removeOpen takes the name from a file that stays open.
func removeOpen(f *os.File) error { return os.Remove(f.Name()) }
