//go:build unix

package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// spareClient gives standard output and error to nobody where they are the client that is on standard input, as inetd has
// it: no word of ours, or of a command that is run, may come between what it is sent. It says whether they were.
func spareClient() (spared bool, err error) {
	client, err := os.Stdin.Stat()
	if err != nil || client.Mode()&os.ModeSocket == 0 {
		return false, nil // without standard input there is no client on it
	}
	for _, f := range []*os.File{os.Stdout, os.Stderr} {
		if fi, err := f.Stat(); err != nil || !os.SameFile(client, fi) {
			continue
		}
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return spared, err
		}
		err = unix.Dup2(int(null.Fd()), int(f.Fd()))
		null.Close()
		if err != nil {
			return spared, fmt.Errorf("give %s to %s: %w", f.Name(), os.DevNull, err)
		}
		spared = spared || f == os.Stderr
	}
	return spared, nil
}
