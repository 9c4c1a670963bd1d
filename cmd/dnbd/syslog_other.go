//go:build !unix

package main

import "io"

// systemLog is nowhere on this system.
func systemLog() io.Writer { return io.Discard }
