// Command plots draws how the rate of a group goes, in the simulator: pictures for docs/protocol.md.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// seed is that of all pictures: with the same protocol they are the same, byte for byte.
const seed = 1

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: plots DIRECTORY")
		os.Exit(2)
	}
	for _, p := range pictures {
		if err := os.WriteFile(filepath.Join(os.Args[1], p.file), p.draw(seed), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "plots:", err)
			os.Exit(1)
		}
	}
}
